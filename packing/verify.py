"""Verify: read a packed dataset back and say, check by check, whether it is what its manifest and recipe state.

A pack is valid if taking it apart and assembling its sequences again gives the same features. With the raw data at
hand, every raw sequence must be found exactly once, compared by a 128-bit digest of its content.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from packing.errors import InputError, ObjectNotFoundError, VerificationError
from packing.example import RawSequence, read_pack
from packing.manifest import read_manifest
from packing.parallel import StageMap
from packing.ports import Storage
from packing.recipe import read_recipe, recipe_uri
from packing.recipe_checks import dataset_problems, recipe_problems
from packing.scan import list_raw_shards, read_sequences
from packing.tfrecord import decompress, read_records
from packing.types import Manifest, PackedShard, RawShard, Recipe, Strategy, merge_strategies

_DIGEST_BYTES = 16

Digests = npt.NDArray[Any]


@dataclass(frozen=True)
class Check:
    """One thing that was checked; `detail` says what was found."""

    name: str
    passed: bool
    detail: str


@dataclass(frozen=True, eq=False)
class _ShardContent:
    """What reading one packed shard gave: `digests` void128[sequences], and how often each strategy occurs."""

    problem: str
    digests: Digests
    strategies: Counter[tuple[int, ...]]


def verify_dataset(storage: Storage, stage_map: StageMap, manifest_uri: str, source: str | None = None) -> list[Check]:
    """Check the packed dataset of a manifest, and against the raw data below `source` if given.

    Raises VerificationError if there is no sound manifest to check by; other findings are in the checks.
    """
    try:
        manifest = read_manifest(storage, manifest_uri)
    except InputError as exc:
        raise VerificationError(str(exc)) from exc
    contents = list(stage_map(partial(_read_shard, manifest=manifest), manifest.shards))
    recipe_check, recipe = _check_recipe(storage, manifest_uri, manifest, contents)
    checks = [_check_shards(manifest, contents), recipe_check]
    if source is not None:
        raw_shards = list_raw_shards(storage, source)
        raw = list(stage_map(_digest_raw_shard, raw_shards))
        if recipe:
            checks.append(_check_dataset(recipe, raw_shards, [sha256 for sha256, _ in raw]))
        checks.append(_check_every_sequence(raw_shards, [digests for _, digests in raw], contents))
    return checks


def _read_shard(storage: Storage, shard: PackedShard, *, manifest: Manifest) -> _ShardContent:
    digests: list[bytes] = []
    strategies: Counter[tuple[int, ...]] = Counter()
    problem = ""
    try:
        for sequences in _read_packs(storage.read(shard.uri), shard, manifest):
            digests.extend(_digest(sequence) for sequence in sequences)
            strategies[tuple(sorted(len(sequence.tokens) for sequence in sequences))] += 1
    except (InputError, VerificationError, ObjectNotFoundError) as exc:
        problem = str(exc)
    else:
        problem = _compare_totals(shard, strategies)
    return _ShardContent(problem, _as_array(digests), strategies)


def _read_packs(content: bytes, shard: PackedShard, manifest: Manifest) -> Sequence[list[RawSequence]]:
    found = hashlib.sha256(content).hexdigest()
    if (len(content), found) != (shard.bytes, shard.sha256):
        raise VerificationError(
            f"{shard.uri}: expected {shard.bytes} bytes with SHA-256 {shard.sha256}, "
            f"found {len(content)} bytes with {found}; the shard was altered, refresh the dataset"
        )
    packs = []
    for record, (offset, payload) in enumerate(read_records(content, shard.uri)):
        try:
            sequences = read_pack(
                payload,
                max_sequence_length=manifest.max_sequence_length,
                max_sequences_per_pack=manifest.max_sequences_per_pack,
                max_predictions_per_sequence=manifest.max_predictions_per_sequence,
            )
        except InputError as exc:
            raise VerificationError(f"{shard.uri}: pack {record} at offset {offset}: {exc}") from exc
        packs.append(sequences)
    return packs


def _compare_totals(shard: PackedShard, strategies: Counter[tuple[int, ...]]) -> str:
    expected = (shard.packs, shard.sequences, shard.tokens)
    found = (
        strategies.total(),
        sum(len(lengths) * count for lengths, count in strategies.items()),
        sum(sum(lengths) * count for lengths, count in strategies.items()),
    )
    return "" if found == expected else f"{shard.uri}: expected (packs, sequences, tokens) {expected}, found {found}"


def _check_shards(manifest: Manifest, contents: Sequence[_ShardContent]) -> Check:
    problems = [content.problem for content in contents if content.problem]
    good = f"{len(contents)} shards with {manifest.packs} packs: digests, framing and every pack hold"
    return Check("packed shards", not problems, _list(problems) or good)


def _check_recipe(
    storage: Storage, manifest_uri: str, manifest: Manifest, contents: Sequence[_ShardContent]
) -> tuple[Check, Recipe | None]:
    """Whether the recipe beside the manifest holds together and is the one that was packed."""
    name = "recipe"
    uri = recipe_uri(manifest_uri.rsplit("/", 2)[0], manifest.recipe_id)
    try:
        recipe = read_recipe(storage, uri)
    except (InputError, VerificationError, ObjectNotFoundError) as exc:
        return Check(name, passed=False, detail=str(exc)), None
    packed = merge_strategies(
        Strategy(lengths, count) for content in contents for lengths, count in content.strategies.items()
    )
    problems = recipe_problems(recipe)
    if recipe.recipe_id != manifest.recipe_id:
        problems.append(f"recipe_id: expected {manifest.recipe_id}, found {recipe.recipe_id}")
    if packed != recipe.strategies:
        problems.append(f"the packed shards do not hold its {len(recipe.strategies)} strategies as often as stated")
    if problems:
        detail = f"{uri}: {_list(problems)}; it or the shards were altered, refresh the dataset"
        return Check(name, passed=False, detail=detail), recipe
    detail = f"{uri}: identity, bound and statistics hold; the packed shards hold its {len(packed)} strategies exactly"
    return Check(name, passed=True, detail=detail), recipe


def _check_dataset(recipe: Recipe, raw_shards: Sequence[RawShard], digests: Sequence[str]) -> Check:
    name = "raw shards as listed"
    problems = dataset_problems(recipe, [(shard.name, sha) for shard, sha in zip(raw_shards, digests, strict=True)])
    good = f"{len(raw_shards)} raw shards with the names and SHA-256 that the recipe lists"
    return Check(name, not problems, _list(problems) or good)


def _check_every_sequence(
    raw_shards: Sequence[RawShard], raw: Sequence[Digests], contents: Sequence[_ShardContent]
) -> Check:
    name = "every raw sequence exactly once"
    expected = Counter(digest.tobytes() for digests in raw for digest in digests)
    found = Counter(digest.tobytes() for content in contents for digest in content.digests)
    missing, extra = expected - found, found - expected
    if not missing and not extra:
        return Check(name, passed=True, detail=f"{expected.total()} sequences of {len(raw_shards)} raw shards")
    places = [
        f"{shard.uri}: record {record} is not packed as often as it should be"
        for shard, digests in zip(raw_shards, raw, strict=True)
        for record, digest in enumerate(digests)
        if digest.tobytes() in missing
    ]
    counts = f"{missing.total()} sequences missing, {extra.total()} too many"
    return Check(name, passed=False, detail=_list([counts, *places]))


def _digest_raw_shard(storage: Storage, shard: RawShard) -> tuple[str, Digests]:
    """SHA-256 of the stored bytes, and the digest of each sequence."""
    stored = storage.read(shard.uri, etag=shard.etag)
    data = decompress(stored, shard.uri)
    digests = [_digest(sequence) for _, _, sequence in read_sequences(data, shard.uri)]
    return hashlib.sha256(stored).hexdigest(), _as_array(digests)


def _digest(sequence: RawSequence) -> bytes:
    """128-bit BLAKE2 of a sequence's content, independent of where in which pack it stands."""
    parts = (sequence.tokens, sequence.segments, sequence.masked_positions, sequence.masked_ids)
    hasher = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    for values in (np.array([len(parts[0]), len(parts[2]), sequence.label]), *parts):
        hasher.update(values.astype("<i8").tobytes())
    return hasher.digest()


def _as_array(digests: Sequence[bytes]) -> Digests:
    return np.frombuffer(b"".join(digests), dtype=np.dtype((np.void, _DIGEST_BYTES)))


def _list(problems: Sequence[str], limit: int = 10) -> str:
    more = [f"and {len(problems) - limit} more"] if len(problems) > limit else []
    return "; ".join([*problems[:limit], *more])


def require(checks: Sequence[Check]) -> None:
    """Raise VerificationError with every failed check, if any failed."""
    failed = [f"{check.name}: {check.detail}" for check in checks if not check.passed]
    if failed:
        error = VerificationError("; ".join(failed))
        error.details = {"verified": False, "checks": [asdict(check) for check in checks]}
        raise error
