"""Packed shards read back with TensorFlow's own parser and taken apart by code of this test alone."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from packing.adapters import open_storage
from packing.features import packed_features, raw_features
from packing.parallel import serial
from packing.pipeline import refresh
from packing.types import Parameters
from tests.builders import random_sizes, raw_shard, stages_of

pytestmark = pytest.mark.slow

WIKIPEDIA = Path(__file__).resolve().parents[3] / "shared" / "data" / "wikipedia"


def parsed(paths: list[str], features: Any, compression: str) -> Iterator[dict[str, Any]]:
    import tensorflow as tf

    schema = {feature.name: tf.io.FixedLenFeature([feature.length], feature.dtype) for feature in features}
    dataset = tf.data.TFRecordDataset(paths, compression_type=compression).batch(512)
    for batch in dataset.map(lambda records: tf.io.parse_example(records, schema)):
        columns = {name: values.numpy().tolist() for name, values in batch.items()}
        for row in zip(*columns.values(), strict=True):
            yield dict(zip(columns, row, strict=True))


def raw_sequences(paths: list[str], parameters: Parameters, compression: str) -> Counter[tuple[Any, ...]]:
    found: Counter[tuple[Any, ...]] = Counter()
    features = raw_features(parameters.max_sequence_length, parameters.max_predictions_per_sequence)
    for example in parsed(paths, features, compression):
        length, masked = sum(example["input_mask"]), int(sum(example["masked_lm_weights"]))
        found[
            tuple(example["input_ids"][:length]),
            tuple(example["segment_ids"][:length]),
            tuple(example["masked_lm_positions"][:masked]),
            tuple(example["masked_lm_ids"][:masked]),
            example["next_sentence_labels"][0],
        ] += 1
    return found


def packed_sequences(paths: list[str], parameters: Parameters) -> Counter[tuple[Any, ...]]:
    found: Counter[tuple[Any, ...]] = Counter()
    slots, k = parameters.max_sequence_length, parameters.max_sequences_per_pack
    for pack in parsed(paths, packed_features(slots, parameters.max_predictions_per_sequence, k), ""):
        for number in range(1, k + 1):
            if pack["next_sentence_weights"][number - 1] == 0.0:
                continue
            own = [i for i, mask in enumerate(pack["input_mask"]) if mask == number]
            start = pack["next_sentence_positions"][number - 1]
            assert own == list(range(start, start + len(own)))
            assert [pack["positions"][i] for i in own] == list(range(len(own)))
            masked = [i for i, weight in enumerate(pack["masked_lm_weights"]) if weight == float(number)]
            found[
                tuple(pack["input_ids"][i] for i in own),
                tuple(pack["segment_ids"][i] for i in own),
                tuple(pack["masked_lm_positions"][i] - start for i in masked),
                tuple(pack["masked_lm_ids"][i] for i in masked),
                pack["next_sentence_labels"][number - 1],
            ] += 1
    return found


def check(raw: Path, out: Path, parameters: Parameters, compression: str) -> int:
    storage = open_storage()
    outcome = refresh(storage, stages_of(serial(storage)), str(raw), str(out), parameters)
    manifest = json.loads(Path(outcome.manifest_uri).read_bytes())
    expected = raw_sequences([str(path) for path in sorted(raw.iterdir())], parameters, compression)
    assert packed_sequences([shard["uri"] for shard in manifest["shards"]], parameters) == expected
    return expected.total()


@pytest.mark.parametrize("k", [1, 2, 3, 8])
def test_every_sequence_is_found_exactly_once(tmp_path: Path, k: int) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    for number in range(4):
        content = raw_shard(random_sizes(50, seed=number), seed=number, compression="gzip")
        (raw / f"part-{number}").write_bytes(content)
    parameters = Parameters(max_sequence_length=64, max_sequences_per_pack=k, max_predictions_per_sequence=10)
    assert check(raw, tmp_path / "out", parameters, "GZIP") == 200


@pytest.mark.skipif(not WIKIPEDIA.is_dir(), reason="the Wikipedia sample is not here")
def test_every_wikipedia_sequence_is_found_exactly_once(tmp_path: Path) -> None:
    assert check(WIKIPEDIA, tmp_path / "out", Parameters(), "GZIP") == 13_827
