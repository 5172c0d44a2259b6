"""The packer to compare with does the whole work: every sequence, in packs of the right lengths."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

from benchmarks.baseline import VARIANTS, pack_all
from benchmarks.datasets import raw_data
from benchmarks.settings import (
    MAX_PREDICTIONS_PER_SEQUENCE,
    MAX_SEQUENCE_LENGTH,
    MAX_SEQUENCES_PER_PACK,
    QUICK,
    Bench,
)
from packing.example import RawSequence, read_pack, read_sequence
from packing.solvers import solve
from packing.tfrecord import read_records
from packing.types import Histogram


def key(sequence: RawSequence) -> tuple[object, ...]:
    arrays = (sequence.tokens, sequence.segments, sequence.masked_positions, sequence.masked_ids)
    return (*(array.tobytes() for array in arrays), sequence.label)


def test_all_variants_pack_every_sequence_into_the_same_bytes(tmp_path: Path) -> None:
    raw = raw_data(Bench(replace(QUICK, unit_bytes=8 * 100_000), tmp_path / "nothing", tmp_path), 2)
    sequences = [
        read_sequence(payload) for path in raw.iterdir() for _, payload in read_records(path.read_bytes(), path.name)
    ]
    lengths = [len(sequence.tokens) for sequence in sequences]
    strategies = solve(Histogram.of_lengths(lengths, MAX_SEQUENCE_LENGTH), MAX_SEQUENCES_PER_PACK).strategies
    written = set()
    for variant in VARIANTS:
        out = tmp_path / variant
        assert pack_all(raw, [asdict(strategy) for strategy in strategies], out, variant) == len(sequences)
        written.add(out.read_bytes())
    (content,) = written
    packs = [
        read_pack(
            payload,
            max_sequence_length=MAX_SEQUENCE_LENGTH,
            max_sequences_per_pack=MAX_SEQUENCES_PER_PACK,
            max_predictions_per_sequence=MAX_PREDICTIONS_PER_SEQUENCE,
        )
        for _, payload in read_records(content, "packed")
    ]
    assert len(packs) == sum(strategy.count for strategy in strategies)
    assert Counter(key(s) for pack in packs for s in pack) == Counter(key(s) for s in sequences)
