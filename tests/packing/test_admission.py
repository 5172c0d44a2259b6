from __future__ import annotations

import numpy as np
import pytest

from packing.admission import admit
from packing.errors import RecordError
from packing.in_memory import MemoryStorage
from packing.listing import list_raw_shards
from packing.scan import scan_shard
from packing.tfrecord import encode_record
from packing.types import Parameters, ShardSummary
from tests.builders import raw_example, raw_shard, store_with

SIZES = [(20, 3), (5, 1), (64, 10), (20, 2)]
LIMITS = Parameters(max_sequence_length=64, max_predictions_per_sequence=10)


def admitted(storage: MemoryStorage, parameters: Parameters, max_rejected: int = 0) -> list[ShardSummary]:
    summaries = [
        scan_shard(storage, shard, destination="/out", max_rejected=max_rejected)
        for shard in list_raw_shards(storage, "/raw")
    ]
    return admit(storage, summaries, parameters, destination="/out", max_rejected=max_rejected)


def test_what_the_parameters_allow_is_left_as_it_is() -> None:
    storage = store_with({"a": raw_shard(SIZES), "b": raw_shard(SIZES[:1])})
    summaries = [scan_shard(storage, shard, destination="/out") for shard in list_raw_shards(storage, "/raw")]
    storage.requests.clear()
    assert admit(storage, summaries, LIMITS, destination="/out", max_rejected=0) == summaries
    assert not storage.requests


@pytest.mark.parametrize(
    ("limits", "record", "message"),
    [
        ({"max_sequence_length": 63}, 2, r"at most 63 tokens \(max_sequence_length\), found 64;"),
        (
            {"max_sequence_length": 64, "max_predictions_per_sequence": 9},
            2,
            r"at most 9 masked tokens \(max_predictions_per_sequence\), found 10;",
        ),
    ],
)
def test_a_sequence_over_a_limit_is_named(limits: dict[str, int], record: int, message: str) -> None:
    storage = store_with({"a": raw_shard(SIZES)})
    with pytest.raises(RecordError, match=message) as caught:
        admitted(storage, Parameters(**limits))
    offset = sum(len(encode_record(raw_example(*size, seed=number))) for number, size in enumerate(SIZES[:record]))
    assert (caught.value.shard, caught.value.record, caught.value.offset) == ("/raw/a", record, offset)


def test_records_are_packed_or_rejected() -> None:
    """Bad ones of a scan and those over a limit, in the order of the file."""
    bad = encode_record(b"\x0a\x00")
    frames = [encode_record(raw_example(length, 1)) for length in (40, 10, 50, 10)]
    content = [frames[0], bad, frames[1], frames[2], bad, frames[3]]
    storage = store_with({"a": b"".join(content), "b": frames[1]})
    tight = Parameters(max_sequence_length=20)
    first, second = admitted(storage, tight, max_rejected=4)
    offsets = np.cumsum([0, *map(len, content)]).tolist()
    assert [(r.record, r.offset) for r in first.rejected] == [(n, offsets[n]) for n in (0, 1, 3, 4)]
    assert (first.records, first.sequences, second.sequences) == (6, 2, 1)
    assert first.compact_bytes > second.compact_bytes * 2
    with pytest.raises(RecordError, match="3 records before it were rejected, as allowed") as caught:
        admit(
            storage,
            [scan_shard(storage, shard, destination="/out") for shard in list_raw_shards(storage, "/raw")],
            tight,
            destination="/out",
            max_rejected=3,
        )
    assert caught.value.record == 4


def test_the_number_is_of_the_whole_dataset() -> None:
    storage = store_with({name: raw_shard([(40, 1), (5, 1)]) for name in "ab"})
    tight = Parameters(max_sequence_length=20)
    assert [len(summary.rejected) for summary in admitted(storage, tight, max_rejected=2)] == [1, 1]
    with pytest.raises(RecordError, match="/raw/b: record 0"):
        admitted(storage, tight, max_rejected=1)
