"""Admission: which records of scanned shards the parameters allow to be packed, and how many may be left out.

Every record is packed or rejected: a record that the scan could not read as an example, or one that is too long or has
too many masked tokens for the parameters. More than `max_rejected` of them stop the run, before anything is written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from packing.errors import RecordError
from packing.ports import Storage
from packing.scan import count_lengths, load_index
from packing.types import Parameters, Rejection, Segment, SegmentIndex, ShardSummary


def admit(
    storage: Storage, summaries: Sequence[ShardSummary], parameters: Parameters, *, destination: str, max_rejected: int
) -> list[ShardSummary]:
    """The summaries without what the parameters do not allow; raises RecordError for the first record too many."""
    admitted = []
    left = max_rejected
    for summary in summaries:
        restricted = _restrict(storage, summary, parameters, destination)
        if len(restricted.rejected) > left:
            raise _too_many(restricted, restricted.rejected[left], max_rejected)
        left -= len(restricted.rejected)
        admitted.append(restricted)
    return admitted


def usable(
    lengths: npt.NDArray[np.int32], masked: npt.NDArray[np.int32], parameters: Parameters
) -> npt.NDArray[np.bool_]:
    """Which sequences the parameters allow, bool[n]."""
    allowed: npt.NDArray[np.bool_] = (lengths <= parameters.max_sequence_length) & (
        masked <= parameters.max_predictions_per_sequence
    )
    return allowed


def _restrict(storage: Storage, summary: ShardSummary, parameters: Parameters, destination: str) -> ShardSummary:
    segments: list[Segment] = []
    rejected = list(summary.rejected)
    for segment in summary.segments:
        if _all_allowed(segment, parameters):
            segments.append(segment)
            continue
        index = load_index(storage, summary, segment.number, destination=destination)
        allowed = usable(index.lengths, index.masked, parameters)
        segments.append(replace(segment, lengths=count_lengths(index.lengths[allowed], index.masked[allowed])))
        rejected.extend(_rejections(summary, segment, index, np.flatnonzero(~allowed), parameters))
    return replace(summary, segments=tuple(segments), rejected=tuple(sorted(rejected, key=lambda r: r.record)))


def _all_allowed(segment: Segment, parameters: Parameters) -> bool:
    return all(
        length <= parameters.max_sequence_length and masked <= parameters.max_predictions_per_sequence
        for length, _, masked in segment.lengths
    )


def _rejections(
    summary: ShardSummary,
    segment: Segment,
    index: SegmentIndex,
    rows: npt.NDArray[np.intp],
    parameters: Parameters,
) -> Iterator[Rejection]:
    unreadable = np.array([r.offset for r in summary.rejected if segment.start <= r.offset < segment.stop], np.int64)
    for row in rows.tolist():
        offset = int(index.offsets[row])
        record = segment.first_record + row + int(np.count_nonzero(unreadable < offset))
        length, masked = int(index.lengths[row]), int(index.masked[row])
        if length > parameters.max_sequence_length:
            expected = f"a sequence of at most {parameters.max_sequence_length} tokens (max_sequence_length)"
            yield Rejection(summary.shard.name, record, offset, expected, f"{length}")
        else:
            most = parameters.max_predictions_per_sequence
            expected = f"a sequence of at most {most} masked tokens (max_predictions_per_sequence)"
            yield Rejection(summary.shard.name, record, offset, expected, f"{masked}")


def _too_many(summary: ShardSummary, rejection: Rejection, max_rejected: int) -> RecordError:
    more = f"; {max_rejected} records before it were rejected, as allowed" if max_rejected else ""
    return RecordError(
        summary.shard.uri,
        record=rejection.record,
        offset=rejection.offset,
        expected=rejection.expected,
        found=rejection.found + more,
        advice="repair the data, change the parameters, or raise max_rejected to leave such records out",
    )
