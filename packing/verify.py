"""Verify: read a packed dataset back and say, check by check, whether it is what its manifest and recipe state.

A pack is valid if taking it apart and assembling its sequences again gives the same features. With the raw data at
hand, every raw sequence must be found exactly once, compared by a 128-bit digest of its content; the records that the
recipe lists as rejected must be no good, and not be packed. All reading is that of `packing.readback`, which is slow
and independent of the code that wrote the dataset.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from packing.errors import InputError, ObjectNotFoundError, VerificationError
from packing.listing import list_raw_shards
from packing.manifest import read_manifest
from packing.parallel import StageMap
from packing.ports import Storage
from packing.readback import PackedContent, RawContent, read_packed, read_raw
from packing.recipe import recipe_uri
from packing.recipe_checks import examine_recipe
from packing.sequence_digests import Digests, compare
from packing.types import Manifest, Recipe, Rejection, Strategy, merge_strategies


@dataclass(frozen=True)
class Check:
    """One thing that was checked; `detail` says what was found."""

    name: str
    passed: bool
    detail: str


def verify_dataset(storage: Storage, stage_map: StageMap, manifest_uri: str, source: str | None = None) -> list[Check]:
    """Check the packed dataset of a manifest, and against the raw data below `source` if given.

    Raises VerificationError if there is no sound manifest to check by; other findings are in the checks.
    """
    try:
        manifest = read_manifest(storage, manifest_uri)
    except InputError as exc:
        raise VerificationError(str(exc)) from exc
    packed = list(stage_map(partial(read_packed, limits=limits_of(manifest)), manifest.shards))
    recipe_check, recipe = _check_recipe(storage, manifest_uri, manifest, packed)
    checks = [_check_shards(manifest, packed), recipe_check]
    if source is not None:
        raw = list(stage_map(read_raw, list_raw_shards(storage, source)))
        if recipe:
            good = f"{len(raw)} raw shards with the names, sizes and SHA-256 that the recipe lists"
            checks.append(conclude("raw shards as listed", raw_shard_problems(recipe, raw), good))
        checks.append(check_every_sequence(manifest, recipe.rejected if recipe else (), raw, packed))
    return checks


def conclude(name: str, problems: Iterable[str], good: str, limit: int = 10) -> Check:
    """The check of this name, failed with the first problems if there are any, else passed and `good`."""
    found = list(problems)
    more = [f"and {len(found) - limit} more"] if len(found) > limit else []
    return Check(name, not found, "; ".join([*found[:limit], *more]) or good)


def _check_shards(manifest: Manifest, packed: Sequence[PackedContent]) -> Check:
    problems = [problem for content in packed for problem in (content.stored, *content.problems) if problem]
    good = f"{len(packed)} shards with {manifest.packs} packs: digests, framing and every pack hold"
    return conclude("packed shards", problems, good)


def _check_recipe(
    storage: Storage, manifest_uri: str, manifest: Manifest, packed: Sequence[PackedContent]
) -> tuple[Check, Recipe | None]:
    """Whether the recipe beside the manifest holds together and is the one that was packed."""
    uri = recipe_uri(manifest_uri.rsplit("/", 2)[0], manifest.recipe_id)
    try:
        recipe, problems = examine_recipe(storage, uri)
    except ObjectNotFoundError as exc:
        return Check("recipe", passed=False, detail=str(exc)), None
    if recipe:
        problems += recipe_of_manifest_problems(recipe, manifest)
        if packed_strategies(packed) != recipe.strategies:
            problems.append(f"the packed shards do not hold its {len(recipe.strategies)} strategies as often as stated")
    good = f"{uri}: identity, bound and statistics hold; the packed shards hold exactly its strategies"
    check = conclude("recipe", problems, good)
    if not check.passed:
        check = Check("recipe", passed=False, detail=f"{uri}: {check.detail}; it or the shards were altered, refresh")
    return check, recipe


def limits_of(manifest: Manifest) -> dict[str, int]:
    """L, K and P by their names."""
    return {
        "max_sequence_length": manifest.max_sequence_length,
        "max_sequences_per_pack": manifest.max_sequences_per_pack,
        "max_predictions_per_sequence": manifest.max_predictions_per_sequence,
    }


def recipe_of_manifest_problems(recipe: Recipe, manifest: Manifest) -> Iterator[str]:
    """How a recipe is not the one that a manifest names."""
    if recipe.recipe_id != manifest.recipe_id:
        yield f"recipe_id: expected {manifest.recipe_id} as in the manifest, found {recipe.recipe_id}"
    for name, expected in limits_of(manifest).items():
        found = getattr(recipe.parameters, name)
        if expected != found:
            yield f"parameters.{name}: expected {expected} as in the manifest, found {found}"


def packed_strategies(packed: Iterable[PackedContent]) -> tuple[Strategy, ...]:
    """The strategies of the packs that could be read."""
    return merge_strategies(
        Strategy(lengths, count) for content in packed for lengths, count in content.strategies.items()
    )


def raw_shard_problems(recipe: Recipe, raw: Sequence[RawContent]) -> Iterator[str]:
    """How raw shards as they are now differ from those that the recipe lists, one by one."""
    listed = {shard.name: shard for shard in recipe.shards}
    found = {content.shard.name: content for content in raw}
    for name in sorted(listed.keys() | found.keys()):
        if name not in found:
            yield f"{name}: missing, the recipe lists it"
        elif name not in listed:
            yield f"{name}: the recipe does not list it; it came later, or was left out: refresh to have it packed"
        elif found[name].sha256 != listed[name].sha256:
            yield f"{name}: replaced, expected SHA-256 {listed[name].sha256}, found {found[name].sha256}"
        elif found[name].shard.size != listed[name].size:
            yield f"{name}: expected a size of {listed[name].size} bytes, found {found[name].shard.size}"


def check_every_sequence(
    manifest: Manifest,
    rejected: Sequence[Rejection],
    raw: Sequence[RawContent],
    packed: Sequence[PackedContent],
) -> Check:
    """Whether the packs hold every raw sequence exactly once, except for records rejected with reason."""
    left_out: dict[str, set[int]] = {content.shard.name: set() for content in raw}
    for rejection in rejected:
        left_out.setdefault(rejection.shard, set()).add(rejection.record)
    kept = [~np.isin(content.records, sorted(left_out[content.shard.name])) for content in raw]
    expected = [content.digests[rows] for content, rows in zip(raw, kept, strict=True)]
    difference = compare(_together(expected), _together([content.digests for content in packed]))
    problems = [text for content in raw for text in _record_problems(content, left_out[content.shard.name], manifest)]
    if difference.missing or difference.extra:
        problems.insert(0, f"{difference.missing} sequences missing, {difference.extra} too many")
        problems.extend(_places(raw, kept, difference.scarce))
    good = f"{len(difference.scarce)} sequences of {len(raw)} raw shards, {len(rejected)} records rejected with reason"
    return conclude("every raw sequence exactly once", problems, good)


def _together(digests: Sequence[Digests]) -> Digests:
    return np.concatenate([np.empty((0, 2), dtype=np.uint64), *digests])


def _record_problems(content: RawContent, left_out: set[int], manifest: Manifest) -> Iterator[str]:
    """Records that are neither good and packed nor bad and rejected."""
    uri = content.shard.uri
    if content.problem:
        yield content.problem
    for bad in content.bad:
        if bad.record not in left_out:
            yield (
                f"{uri}: record {bad.record} at offset {bad.offset}: expected {bad.expected}, found {bad.found}; "
                "the recipe does not list it as rejected"
            )
    packable = content.packable(manifest.max_sequence_length, manifest.max_predictions_per_sequence)
    for record in sorted(left_out & set(content.records[packable].tolist())):
        yield f"{uri}: record {record}: a good sequence that the recipe lists as rejected"
    for record in sorted(left_out - {bad.record for bad in content.bad} - set(content.records.tolist())):
        yield f"{uri}: record {record}: listed as rejected, but there is no such record"


def _places(
    raw: Sequence[RawContent], kept: Sequence[npt.NDArray[np.bool_]], scarce: npt.NDArray[np.bool_]
) -> Iterator[str]:
    ends = np.cumsum([np.count_nonzero(rows) for rows in kept])
    for content, rows, own in zip(raw, kept, np.split(scarce, ends[:-1]), strict=True):
        for record in content.records[rows][own].tolist():
            yield f"{content.shard.uri}: record {record} is not packed as often as it should be"


def require(checks: Sequence[Check], done: str = "verified") -> None:
    """Raise VerificationError with every failed check, if any failed; `done` names the fact in its details."""
    failed = [f"{check.name}: {check.detail}" for check in checks if not check.passed]
    if failed:
        error = VerificationError("; ".join(failed))
        error.details = {done: False, "checks": [asdict(check) for check in checks]}
        raise error
