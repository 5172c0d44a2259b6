"""Every error that Stowage raises on purpose; the class decides the exit status of a command.

Messages say what happened, where, what was expected, what was found and what to do. Library errors are translated
where they enter (`raise ... from exc`), so callers only ever catch `StowageError`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class StowageError(Exception):
    """Base of the tree. `details` are facts for programs, which commands print with `--json`."""

    exit_status = 1
    details: Mapping[str, Any] = {}


class UsageError(StowageError):
    """Parameters or arguments that cannot work, found before any work is done."""

    exit_status = 2


class InputError(StowageError):
    """Raw data that cannot be packed. A retry on the same data fails in the same way."""

    exit_status = 3


class ContentError(InputError):
    """Content that is not what it should be; whoever knows its place turns this into a RecordError."""

    def __init__(self, expected: str, found: str) -> None:
        self.expected, self.found = expected, found
        super().__init__(f"expected {expected}, found {found}")

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.expected, self.found)


class ExampleError(ContentError):
    """A serialized example that is not a valid one."""


class RecordError(InputError):
    """One bad record of one shard.

    `offset` is the byte offset of the record's frame in the uncompressed shard.
    """

    def __init__(self, shard: str, *, record: int, offset: int, expected: str, found: str, advice: str = "") -> None:
        self.shard, self.record, self.offset = shard, record, offset
        self.expected, self.found, self.advice = expected, found, advice
        hint = advice or "repair or remove the shard, then run again"
        super().__init__(f"{shard}: record {record} at offset {offset}: expected {expected}, found {found}; {hint}")

    def __reduce__(self) -> tuple[object, ...]:
        """Keep the fields when the error crosses a process boundary (keyword arguments do not pickle by default)."""
        return _rebuild_record_error, (self.shard, self.record, self.offset, self.expected, self.found, self.advice)


def _rebuild_record_error(shard: str, record: int, offset: int, expected: str, found: str, advice: str) -> RecordError:
    return RecordError(shard, record=record, offset=offset, expected=expected, found=found, advice=advice)


class ObjectChangedError(InputError):
    """An object is no longer the one that was scanned (its ETag, size or digest differs)."""


class VerificationError(StowageError):
    """A dataset, recipe or manifest does not hold what it promises."""

    exit_status = 4


class StorageError(StowageError):
    """The store is unreachable, refuses access or answered with an error."""

    exit_status = 5


class ObjectNotFoundError(StorageError):
    """The store works, but has no such object."""


class SecretError(StowageError):
    """A secret that is required was not found; where it is kept may be away."""

    exit_status = 5


class TrackingError(StowageError):
    """The tracking server is unreachable or refused what was sent."""

    exit_status = 5


class RunNotFoundError(TrackingError):
    """The tracking server works, but has no such run, or has it deleted."""


class TrackerAwayError(TrackingError):
    """The tracking server does not answer, or not in time."""


class TrackerRefusedError(TrackingError):
    """The tracking server does not accept the login, or does not allow it what was asked for."""


class TrackerAnswerError(TrackingError):
    """The tracking server answered with an error, or what answered is no tracking server."""
