"""The data that is measured: as described, no two records alike, and the same every time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.datasets import (
    _long_varints,
    log_normal_histograms,
    random_histogram,
    raw_data,
    shuffled_parts,
    tiny_raw_data,
)
from benchmarks.settings import MAX_PREDICTIONS_PER_SEQUENCE, MAX_SEQUENCE_LENGTH, QUICK, REPOSITORY, Bench
from packing.example import encode_example, read_sequence
from packing.tfrecord import read_records
from packing.types import Histogram

SAMPLE = REPOSITORY.parent / "shared" / "data"


def bench(scratch: Path, data: Path, shard_bytes: int = 300_000) -> Bench:
    return Bench(replace(QUICK, unit_bytes=8 * shard_bytes), data, scratch)


def payloads(folder: Path) -> list[bytes]:
    return [payload for path in sorted(folder.iterdir()) for _, payload in read_records(path.read_bytes(), path.name)]


@pytest.fixture(params=["made up", "sample"])
def data(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param == "made up":
        return tmp_path / "nothing"
    if not SAMPLE.exists():
        pytest.skip("no sample records here")
    return SAMPLE


def test_raw_records_are_valid_and_no_two_are_alike(tmp_path: Path, data: Path) -> None:
    # Enough for the records to be repeated, where there are few.
    records = payloads(raw_data(bench(tmp_path, data, 1_500_000), 5))
    assert len(records) > 2000
    assert len(set(records)) == len(records)
    for record in records[::50]:
        sequence = read_sequence(record)
        assert len(sequence.tokens) <= MAX_SEQUENCE_LENGTH
        assert len(sequence.masked_ids) <= MAX_PREDICTIONS_PER_SEQUENCE


def test_a_shard_is_the_same_whatever_was_made_before_it(tmp_path: Path, data: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
    few = raw_data(bench(first, data), 2)
    many = raw_data(bench(first, data), 4)
    again = raw_data(bench(second, data), 4)
    assert payloads(few) == payloads(many)[: len(payloads(few))]
    assert payloads(many) == payloads(again)
    assert len(list(many.iterdir())) == 4


def test_only_tokens_of_several_bytes_are_changed() -> None:
    tokens = {"all": [101, 300, 20000, 7, 30000, 0, 0], "few": [101, 103, 102, 24751, 102, 0, 0], "none": [101, 102, 0]}
    found = {}
    for name, ids in tokens.items():
        other = np.full(9, 5000)  # what stands after a short list is not its
        payload = encode_example({"input_ids": np.array(ids), "masked_lm_ids": other})
        start = payload.index(bytes([101]))
        found[name] = [offset - start for offset in _long_varints(payload, 2)]
    assert found == {"all": [1, 3], "few": [3], "none": []}


def test_a_tiny_shard_has_a_few_records(tmp_path: Path, data: Path) -> None:
    assert 10 <= len(payloads(tiny_raw_data(bench(tmp_path, data)))) <= 100


def test_shuffled_parts_hold_every_sequence_once() -> None:
    histogram = Histogram((5, 0, 100, 7, 0, 33))
    parts = list(shuffled_parts(histogram, 40, histogram.sequences, seed=1))
    assert [part.sequences for part in parts] == [40, 40, 40, 25]
    assert np.sum([part.counts for part in parts], axis=0).tolist() == list(histogram.counts)
    assert parts[0] != parts[1]


def test_histograms_are_as_their_names_say() -> None:
    found = list(log_normal_histograms(1000))
    assert [histogram.max_sequence_length for histogram in found] == [2048, 4096, 8192]
    assert all(histogram.sequences == 1000 for histogram in found)
    random = np.random.default_rng(0)
    for histogram, max_sequences in (random_histogram(random) for _ in range(50)):
        assert 32 <= histogram.max_sequence_length <= 512
        assert 2 <= max_sequences <= 12
        assert histogram.sequences > 0
