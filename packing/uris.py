"""Names of places: `s3://bucket/key`, or an absolute path on this machine."""

from __future__ import annotations

import os

from packing.errors import UsageError


def absolute(location: str) -> str:
    """What a user typed, as the URI that every stage uses: without a trailing slash, paths absolute."""
    if location.startswith("s3://"):
        bucket = location.removeprefix("s3://").rstrip("/")
        if not bucket or bucket.startswith("/"):
            raise UsageError(f"{location!r}: expected s3://bucket/prefix")
        return f"s3://{bucket}"
    if "://" in location and not location.startswith("file://"):
        raise UsageError(f"{location!r}: expected a local path or s3://bucket/prefix")
    if not location:
        raise UsageError("expected a local path or s3://bucket/prefix, got an empty text")
    return os.path.abspath(location.removeprefix("file://"))  # noqa: PTH100 - collapses .. and keeps links
