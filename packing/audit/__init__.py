"""Audit: derive a packed dataset again from its raw data, and say line by line what holds.

The lines stand in the order in which an auditor asks: what is there (manifest, recipe, raw shards), what follows from
it (rejected records, histogram, partitions, strategies, bound), and whether the packed shards are just that (as
objects, pack by pack, sequence by sequence, and byte by byte, made again). A line for which something is missing fails
and says so; the others go on.
"""

from __future__ import annotations

from collections.abc import Collection

from packing.audit import claims, packed
from packing.audit.evidence import Evidence, Line, NotCheckedError, gather
from packing.parallel import StageMap
from packing.ports import Storage
from packing.verify import Check, conclude

LINES: dict[str, Line] = {
    "manifest": claims.check_manifest,
    "recipe": claims.check_recipe,
    "raw shards as listed": claims.check_raw_shards,
    "rejected records": claims.check_rejected,
    "histogram": claims.check_histogram,
    "partitions": claims.check_partitions,
    "strategies": claims.check_packing,
    "bound": claims.check_bound,
    "packed shards": packed.check_objects,
    "packs": packed.check_packs,
    "every raw sequence exactly once": packed.check_sequences,
    "packed bytes made again": packed.check_bytes,
}
"""What is checked, in the order in which it is reported."""


def audit_dataset(
    storage: Storage, stage_map: StageMap, manifest_uri: str, source: str, listed: Collection[str] | None = None
) -> list[Check]:
    """Check the packed dataset of a manifest in every way that its raw data, below `source`, makes possible.

    A raw shard that the recipe does not list fails, as it may have been left out, unless its name is not among those
    `listed` when the refresh began: then it came later, and is only told.

    Raises ObjectNotFoundError if there is no manifest, InputError if there are no raw shards; the checks tell all else.
    """
    evidence = gather(storage, stage_map, manifest_uri, source, listed)
    return [_check(name, line, evidence) for name, line in LINES.items()]


def _check(name: str, line: Line, evidence: Evidence) -> Check:
    try:
        problems, good = line(evidence)
        return conclude(name, problems, good)
    except NotCheckedError as exc:
        return Check(name, passed=False, detail=str(exc))
