"""What a packed dataset says of itself, in its manifest and its recipe."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Packed:
    """A packed dataset: `sizes` are its shards' bytes, `strategies` its recipe's."""

    sizes: tuple[int, ...]
    packs: int
    sequences: int
    solve_seconds: float
    strategies: Sequence[Mapping[str, Any]]


def read_packed(manifest: str, read: Callable[[str], bytes] = lambda path: Path(path).read_bytes()) -> Packed:
    """What the manifest and the recipe of a packed dataset say."""
    shards = json.loads(read(manifest))["shards"]
    recipe = json.loads(read(manifest.replace("/manifests/", "/recipes/")))
    return Packed(
        sizes=tuple(shard["bytes"] for shard in shards),
        packs=sum(shard["packs"] for shard in shards),
        sequences=sum(shard["sequences"] for shard in shards),
        solve_seconds=recipe["statistics"]["solve_seconds"],
        strategies=recipe["strategies"],
    )
