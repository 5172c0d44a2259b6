"""The obvious packer, to compare with: protobuf objects and Python lists, one record at a time.

    python -m benchmarks.baseline SOURCE STRATEGIES OUT VARIANT

It is given the strategies (a JSON file), so it only reads, deals, assembles and writes. `two parses` parses every
record for its length first, as a program must that cannot keep all data in memory, then again to pack it; `one parse`
keeps what it parsed; `two parses, checked` goes through `packing.example`, with the checks of every record that Stowage
makes. Prints a JSON object.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.settings import MAX_PREDICTIONS_PER_SEQUENCE, MAX_SEQUENCE_LENGTH, MAX_SEQUENCES_PER_PACK
from packing.example import _Example as Example
from packing.example import assemble_pack, encode_example, read_sequence
from packing.features import packed_features
from packing.tfrecord import encode_record, read_records

VARIANTS = ("two parses", "one parse", "two parses, checked")
_SIZES = {
    "max_sequence_length": MAX_SEQUENCE_LENGTH,
    "max_sequences_per_pack": MAX_SEQUENCES_PER_PACK,
    "max_predictions_per_sequence": MAX_PREDICTIONS_PER_SEQUENCE,
}
_PACKED = {
    feature.name: feature.length
    for feature in packed_features(MAX_SEQUENCE_LENGTH, MAX_PREDICTIONS_PER_SEQUENCE, MAX_SEQUENCES_PER_PACK)
}


@dataclass(frozen=True)
class _Codec:
    """How records are read and packs are written: the length of a payload, its sequence, the payload of a pack."""

    length: Callable[[bytes], int]
    read: Callable[[bytes], Any]
    length_of: Callable[[Any], int]
    pack: Callable[[Sequence[Any]], bytes]


def main() -> None:
    """Pack, and print what it took without imports."""
    source, strategies, out, variant = sys.argv[1:]
    packs = json.loads(Path(strategies).read_bytes())
    started, cpu_started = time.perf_counter(), time.process_time()
    sequences = pack_all(Path(source), packs, Path(out), variant)
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
    sys.stdout.write(json.dumps({"sequences": sequences, "seconds": seconds, "cpu_seconds": cpu_seconds}) + "\n")


def pack_all(source: Path, strategies: Sequence[Mapping[str, Any]], out: Path, variant: str) -> int:
    """Pack the raw shards of `source` by `strategies` (`lengths`, `count`) into one file; how many sequences."""
    codec = _CHECKED if variant.endswith("checked") else _PLAIN
    if variant.startswith("two"):
        for payload in _payloads(source):
            codec.length(payload)
    sequences = [codec.read(payload) for payload in _payloads(source)]
    with out.open("wb") as file:
        for pack in _deal(strategies, sequences, codec):
            file.write(encode_record(codec.pack(pack)))
        file.flush()
        os.fsync(file.fileno())
    return len(sequences)


def _payloads(source: Path) -> Iterator[bytes]:
    for shard in sorted(source.iterdir()):
        for _, payload in read_records(shard.read_bytes(), shard.name):
            yield payload


def _deal(strategies: Sequence[Mapping[str, Any]], sequences: list[Any], codec: _Codec) -> list[list[Any]]:
    by_length: dict[int, list[Any]] = defaultdict(list)
    for sequence in sequences:
        by_length[codec.length_of(sequence)].append(sequence)
    packs = [
        [by_length[length].pop() for length in strategy["lengths"]]
        for strategy in strategies
        for _ in range(strategy["count"])
    ]
    Random(0).shuffle(packs)  # noqa: S311 - an order, not a secret
    return packs


def _plain_length(payload: bytes) -> int:
    return sum(Example.FromString(payload).features.feature["input_mask"].int64_list.value)


def _plain_read(payload: bytes) -> dict[str, list[int]]:
    features = Example.FromString(payload).features.feature
    length = sum(features["input_mask"].int64_list.value)
    masked = int(sum(features["masked_lm_weights"].float_list.value))
    return {
        "tokens": features["input_ids"].int64_list.value[:length],
        "segments": features["segment_ids"].int64_list.value[:length],
        "masked_positions": features["masked_lm_positions"].int64_list.value[:masked],
        "masked_ids": features["masked_lm_ids"].int64_list.value[:masked],
        "label": features["next_sentence_labels"].int64_list.value[:1],
    }


def _plain_pack(sequences: Sequence[dict[str, list[int]]]) -> bytes:
    values: dict[str, list[Any]] = {name: [] for name in _PACKED}
    for number, sequence in enumerate(sequences, start=1):
        offset, length = len(values["input_ids"]), len(sequence["tokens"])
        values["input_ids"] += sequence["tokens"]
        values["input_mask"] += [number] * length
        values["segment_ids"] += sequence["segments"]
        values["positions"] += range(length)
        values["masked_lm_positions"] += [offset + position for position in sequence["masked_positions"]]
        values["masked_lm_ids"] += sequence["masked_ids"]
        values["masked_lm_weights"] += [float(number)] * len(sequence["masked_ids"])
        values["next_sentence_positions"].append(offset)
        values["next_sentence_labels"] += sequence["label"]
        values["next_sentence_weights"].append(1.0)
    example = Example()
    for name, slots in _PACKED.items():
        padded = values[name] + [0] * (slots - len(values[name]))
        feature = example.features.feature[name]
        (feature.float_list if name.endswith("weights") else feature.int64_list).value.extend(padded)
    return bytes(example.SerializeToString(deterministic=True))


_PLAIN = _Codec(_plain_length, _plain_read, lambda sequence: len(sequence["tokens"]), _plain_pack)
_CHECKED = _Codec(
    lambda payload: len(read_sequence(payload).tokens),
    read_sequence,
    lambda sequence: len(sequence.tokens),
    lambda sequences: encode_example(assemble_pack(sequences, **_SIZES)),
)


if __name__ == "__main__":
    main()
