"""A store that can be tried out on: it shows what another store holds, and keeps changes to itself, in memory."""

from __future__ import annotations

from packing.errors import ObjectNotFoundError
from packing.in_memory import MemoryStorage
from packing.ports import Buffer, ObjectInfo, Storage


class Overlay:
    """A `Storage` over `base`, which is only ever read; what is written or deleted here is so for this object alone."""

    def __init__(self, base: Storage) -> None:
        self._base, self._own = base, MemoryStorage()
        self._deleted: set[str] = set()

    def list(self, prefix: str) -> list[ObjectInfo]:
        found = {info.uri: info for info in self._base.list(prefix) if info.uri not in self._deleted}
        found |= {info.uri: info for info in self._own.list(prefix)}
        return [found[uri] for uri in sorted(found)]

    def head(self, uri: str) -> ObjectInfo:
        return self._holder(uri).head(uri)

    def read(self, uri: str, *, start: int = 0, size: int | None = None, etag: str | None = None) -> bytes:
        return self._holder(uri).read(uri, start=start, size=size, etag=etag)

    def read_into(self, uri: str, buffer: Buffer, *, start: int = 0, etag: str | None = None) -> None:
        self._holder(uri).read_into(uri, buffer, start=start, etag=etag)

    def write(self, uri: str, data: Buffer) -> ObjectInfo:
        self._deleted.discard(uri)
        return self._own.write(uri, data)

    def delete(self, uri: str) -> None:
        self._deleted.add(uri)
        self._own.delete(uri)

    def _holder(self, uri: str) -> Storage:
        if uri in self._deleted:
            raise ObjectNotFoundError(f"{uri}: no such object")
        return self._own if uri in self._own.objects else self._base
