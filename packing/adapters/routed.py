"""One storage over all places: each call goes to the adapter of its URI."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

from packing.adapters.local import LocalStorage
from packing.ports import Buffer, ObjectInfo, Storage

if TYPE_CHECKING:
    from packing.adapters.s3 import S3Storage


class RoutedStorage:
    """`s3://` through the client that `connect` makes when it is first needed; anything else is a local path."""

    def __init__(self, connect: Callable[[], Any]) -> None:
        self._connect = connect
        self._local = LocalStorage()

    @cached_property
    def _s3(self) -> S3Storage:
        from packing.adapters.s3 import S3Storage

        return S3Storage(self._connect())

    def _of(self, uri: str) -> Storage:
        return self._s3 if uri.startswith("s3://") else self._local

    def list(self, prefix: str) -> list[ObjectInfo]:
        return self._of(prefix).list(prefix)

    def head(self, uri: str) -> ObjectInfo:
        return self._of(uri).head(uri)

    def read(self, uri: str, *, start: int = 0, size: int | None = None, etag: str | None = None) -> bytes:
        return self._of(uri).read(uri, start=start, size=size, etag=etag)

    def read_into(self, uri: str, buffer: Buffer, *, start: int = 0, etag: str | None = None) -> None:
        self._of(uri).read_into(uri, buffer, start=start, etag=etag)

    def write(self, uri: str, data: Buffer) -> ObjectInfo:
        return self._of(uri).write(uri, data)

    def delete(self, uri: str) -> None:
        self._of(uri).delete(uri)
