"""What an audit looks at: all that is stored of a packed dataset, and what follows anew from its raw data.

Nothing under `index/` is relied on. Raw and packed shards are read by the slow reader of `packing.readback`; how shards
are divided into partitions, and the packed shards themselves, are derived by the code that made them.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property, partial

from packing.documents import read_cached
from packing.errors import InputError, ObjectNotFoundError, RecordError, VerificationError
from packing.listing import list_raw_shards
from packing.manifest import read_manifest
from packing.parallel import StageMap
from packing.partition import Members, assign_partitions
from packing.ports import Storage
from packing.readback import PackedContent, RawContent, read_packed, read_raw
from packing.recipe import recipe_uri
from packing.recipe_checks import examine_recipe
from packing.scan import count_lengths, read_segments
from packing.solve import histogram_of
from packing.solvers.check import check_strategies
from packing.types import Manifest, PackedShard, Parameters, Partition, RawShard, Recipe, ShardSummary, segments_of
from packing.verify import limits_of
from packing.write import partition_parts

Findings = tuple[Iterable[str], str]
"""The problems that a line of the audit found, and what it says if there are none."""

Key = tuple[tuple[str, ...], tuple[int, int] | None]
"""By what a partition is told from others: the names of its raw shards, and its range of records."""


class NotCheckedError(VerificationError):
    """What a check would need is not there."""


@dataclass(frozen=True)
class Remade:
    """A partition made again: size and SHA-256 of each packed shard, or why it cannot be made."""

    shards: tuple[tuple[int, str], ...] = ()
    problem: str = ""


@dataclass(frozen=True, eq=False)
class Evidence:
    """What was found; `manifest` and `recipe` are None if they cannot be read, as their problems say.

    `pointer` is the recipe and the manifest's digest that `index/inputs` states for the input. `objects` are the URIs
    in the folders of the packed shards. `later` are the names of raw shards that came after the refresh.
    `scan_problems` tell of raw shards that cannot be scanned. `members` are the partitions that the raw data gives,
    `remade` by digest those of the recipe among them.
    """

    manifest_uri: str
    manifest: Manifest | None
    manifest_problems: tuple[str, ...]
    recipe: Recipe | None
    recipe_problems: tuple[str, ...]
    pointer: tuple[str, str] | None
    raw: tuple[RawContent, ...]
    later: tuple[str, ...]
    scan_problems: tuple[str, ...]
    members: Mapping[Key, Members]
    packed: tuple[PackedContent, ...]
    objects: tuple[str, ...]
    remade: Mapping[str, Remade]

    def need_manifest(self) -> Manifest:
        if self.manifest is None:
            raise NotCheckedError("not checked, as the manifest cannot be read")
        return self.manifest

    def need_recipe(self) -> Recipe:
        if self.recipe is None:
            raise NotCheckedError("not checked, as the recipe cannot be read")
        return self.recipe

    @cached_property
    def folders(self) -> Mapping[str, Sequence[PackedContent]]:
        """The packed shards in the manifest's order, by the name of their folder: by right, a partition's digest."""
        folders: dict[str, list[PackedContent]] = defaultdict(list)
        for content in self.packed:
            folders[content.shard.uri.rpartition("/")[0].rpartition("/")[2]].append(content)
        return folders


Line = Callable[[Evidence], Findings]


def gather(
    storage: Storage, stage_map: StageMap, manifest_uri: str, source: str, listed: Collection[str] | None
) -> Evidence:
    """Read everything; of the raw shards those `listed`, if that is not None.

    Raises ObjectNotFoundError if there is no manifest, InputError if there are no raw shards.
    """
    manifest, manifest_problems = _manifest(storage, manifest_uri)
    destination, _, file = manifest_uri.rsplit("/", 2)
    recipe_id = manifest.recipe_id if manifest else file.removesuffix(".json")
    recipe, recipe_problems = _recipe(storage, recipe_uri(destination, recipe_id))
    shards, later = _raw_shards(storage, source, listed)
    parameters = recipe.parameters if recipe else None
    examined = list(stage_map(partial(_raw_shard, parameters=parameters), shards))
    summaries = [summary for _, summary, _ in examined]
    members = assign_partitions(summaries, parameters.partition_bytes) if parameters else []
    by_key = {(one.names, one.records): one for one in members}
    packed = list(stage_map(partial(read_packed, limits=limits_of(manifest)), manifest.shards)) if manifest else []
    return Evidence(
        manifest_uri=manifest_uri,
        manifest=manifest,
        manifest_problems=manifest_problems,
        recipe=recipe,
        recipe_problems=recipe_problems,
        pointer=_pointer(storage, destination, recipe) if recipe else None,
        raw=tuple(content for content, _, _ in examined),
        later=later,
        scan_problems=tuple(problem for _, _, problem in examined if problem),
        members=by_key,
        packed=tuple(packed),
        objects=_objects(storage, manifest.shards) if manifest else (),
        remade=_remake_all(stage_map, recipe, by_key) if recipe else {},
    )


def _raw_shards(
    storage: Storage, source: str, listed: Collection[str] | None
) -> tuple[list[RawShard], tuple[str, ...]]:
    """The raw shards to audit against, and the names of those that came later."""
    found = list_raw_shards(storage, source)
    if listed is None:
        return found, ()
    names = frozenset(listed)
    shards = [shard for shard in found if shard.name in names]
    if not shards:
        raise InputError(f"{source}: expected some of the {len(names)} raw shards that the refresh listed, found none")
    return shards, tuple(shard.name for shard in found if shard.name not in names)


def _manifest(storage: Storage, uri: str) -> tuple[Manifest | None, tuple[str, ...]]:
    try:
        return read_manifest(storage, uri), ()
    except InputError as exc:
        return None, (str(exc),)


def _recipe(storage: Storage, uri: str) -> tuple[Recipe | None, tuple[str, ...]]:
    try:
        recipe, problems = examine_recipe(storage, uri)
    except ObjectNotFoundError as exc:
        return None, (str(exc),)
    return recipe, tuple(f"{uri}: {problem}" for problem in problems)


def _pointer(storage: Storage, destination: str, recipe: Recipe) -> tuple[str, str] | None:
    uri = f"{destination}/index/inputs/{recipe.input_id}.json"
    return read_cached(storage, uri, lambda document: (document["recipe_id"], document["manifest_digest"]))


def _objects(storage: Storage, shards: Sequence[PackedShard]) -> tuple[str, ...]:
    folders = sorted({shard.uri.rpartition("/")[0] for shard in shards})
    return tuple(info.uri for folder in folders for info in storage.list(folder))


def _raw_shard(
    storage: Storage, shard: RawShard, *, parameters: Parameters | None
) -> tuple[RawContent, ShardSummary, str]:
    """What a raw shard holds, how it is scanned and divided, and why it cannot be.

    The scan says where segments begin and how large they are; what is in them is taken from the slow reader.
    """
    content = read_raw(storage, shard)
    if parameters is None:
        return content, ShardSummary(shard, content.sha256, ()), ""
    try:
        segments, _ = read_segments(storage, shard, max_rejected=2**63)
    except RecordError as exc:
        return content, ShardSummary(shard, content.sha256, ()), str(exc)
    limits = parameters.max_sequence_length, parameters.max_predictions_per_sequence
    allowed = content.packable(*limits)
    counted = []
    for segment in segments:
        own = allowed & (content.records >= segment.first_record) & (content.records < segment.stop_record)
        counted.append(replace(segment, lengths=count_lengths(content.lengths[own], content.masked[own])))
    return content, ShardSummary(shard, content.sha256, tuple(counted), content.left_out(*limits)), ""


def _remake_all(stage_map: StageMap, recipe: Recipe, members: Mapping[Key, Members]) -> dict[str, Remade]:
    known = [partition for partition in recipe.partitions if (partition.shards, partition.records) in members]
    work = [(partition, members[partition.shards, partition.records]) for partition in known]
    remade = stage_map(partial(_remake, parameters=recipe.parameters), work)
    return {partition.digest: result for partition, result in zip(known, remade, strict=True)}


def _remake(storage: Storage, work: tuple[Partition, Members], *, parameters: Parameters) -> Remade:
    """Plan and assemble a partition once more, from the raw data and its strategies, storing nothing."""
    partition, members = work
    histogram = histogram_of(segments_of(members.summaries), parameters.max_sequence_length)
    try:
        check_strategies(histogram, parameters.max_sequences_per_pack, partition.strategies)
        with ExitStack() as borrowed:
            parts = partition_parts(storage, partition, members, parameters, borrowed)
            shards = tuple((len(part.content), hashlib.sha256(part.content.data).hexdigest()) for part in parts)
    except (InputError, VerificationError) as exc:
        return Remade(problem=str(exc))
    return Remade(shards)
