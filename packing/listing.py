"""Which objects below a source are raw shards."""

from __future__ import annotations

from packing.errors import InputError
from packing.ports import Storage
from packing.types import RawShard


def list_raw_shards(storage: Storage, source: str) -> list[RawShard]:
    """The raw shards below `source`, sorted by name; raises InputError if there is none.

    Names with a part that begins with `_` or `.` are left out (markers and temporary files).
    """
    prefix = source.rstrip("/") + "/"
    shards = []
    for info in storage.list(source):
        name = info.uri.removeprefix(prefix)
        if not name.endswith("/") and not any(part.startswith(("_", ".")) for part in name.split("/")):
            shards.append(RawShard(name, info.uri, info.size, info.etag))
    if not shards:
        raise InputError(f"{source}: expected raw TFRecord shards, found none; check the prefix")
    return sorted(shards, key=lambda shard: shard.name)


def source_of(shard: RawShard) -> str:
    """The source below which a raw shard was listed."""
    return shard.uri.removesuffix(f"/{shard.name}")
