"""Commit: a dataset exists when its manifest does, which is stored last; it is current until its input changes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from packing.documents import read_cached, write_cached
from packing.errors import InputError, ObjectNotFoundError, VerificationError
from packing.jsonio import digest, pretty
from packing.manifest import manifest_bytes, manifest_to_json, read_manifest, write_manifest
from packing.parallel import LOOKUPS, threads
from packing.ports import Storage
from packing.recipe import dataset_input_id, recipe_bytes, recipe_uri
from packing.recipe_checks import read_sound_recipe
from packing.scan import INDEX_FORMAT
from packing.signing import Signature, SigningKey, signature_uri
from packing.types import Manifest, Parameters, RawShard, Recipe, StoredShard
from packing.write import read_written

log = logging.getLogger(__name__)


def find_listed(
    storage: Storage, destination: str, parameters: Parameters, shards: Sequence[RawShard]
) -> tuple[Recipe, Manifest] | None:
    """As `find_current`, for raw shards that are listed as they were when they led to that dataset."""
    uri = _listing_uri(destination, parameters, shards)
    input_id = read_cached(storage, uri, lambda document: str(document["input_id"]))
    return find_current(storage, destination, input_id) if input_id else None


def remember_listing(
    storage: Storage, destination: str, parameters: Parameters, shards: Sequence[RawShard], input_id: str
) -> None:
    """Let `find_listed` know to which input these raw shards, by URI, size and ETag, came."""
    write_cached(storage, _listing_uri(destination, parameters, shards), {"input_id": input_id})


def _listing_uri(destination: str, parameters: Parameters, shards: Sequence[RawShard]) -> str:
    listing = {
        "index": INDEX_FORMAT,
        "packing": dataset_input_id(parameters, {}),
        "shards": [[shard.uri, shard.size, shard.etag] for shard in shards],
    }
    return f"{destination}/index/listings/{digest(listing)}.json"


def find_current(storage: Storage, destination: str, input_id: str) -> tuple[Recipe, Manifest] | None:
    """Recipe and manifest of a dataset that exists, is complete and sound, and was made from exactly this input."""
    current = read_cached(storage, _input_uri(destination, input_id), _from_pointer)
    if current is None:
        return None
    recipe_id, manifest_digest, etags = current
    try:
        manifest = read_manifest(storage, manifest_uri(destination, recipe_id))
    except (ObjectNotFoundError, InputError) as exc:
        log.warning("%s; making the dataset again", exc)
        return None
    if manifest.recipe_id != recipe_id or digest(manifest_to_json(manifest)) != manifest_digest:
        log.warning("%s: altered; making it again", manifest_uri(destination, recipe_id))
        return None
    found = {info.uri: info.etag for info in storage.list(f"{destination}/shards")}
    if etags.keys() != {shard.uri for shard in manifest.shards} or any(
        found.get(uri) != etag for uri, etag in etags.items()
    ):
        return None
    recipe = read_sound_recipe(storage, recipe_uri(destination, recipe_id))
    return (recipe, manifest) if recipe else None


def _from_pointer(document: Any) -> tuple[str, str, dict[str, str]]:
    return document["recipe_id"], document["manifest_digest"], dict(document["etags"])


def commit(
    storage: Storage,
    destination: str,
    recipe: Recipe,
    written: Mapping[str, Sequence[StoredShard]],
    *,
    key: SigningKey | None = None,
    announce: Callable[[Manifest, Signature | None], None] | None = None,
) -> Manifest:
    """Store the manifest of the packed shards `written`, by partition digest, and the pointers to it.

    With a `key`, recipe and manifest are signed, and the signature is stored before the manifest. `announce` is called
    before anything is stored, so it must not say that the dataset exists. What lets a refresh find the dataset is
    stored last: one that finds it has nothing left to store. Raises VerificationError, and stores nothing, if anything
    is missing or does not add up to the recipe.
    """
    missing = [partition.digest for partition in recipe.partitions if partition.digest not in written]
    if missing:
        raise VerificationError(f"partition {missing[0]}: its packed shards are incomplete; refresh again")
    stored = [shard for partition in recipe.partitions for shard in written[partition.digest]]
    parameters = recipe.parameters
    manifest = Manifest(
        recipe_id=recipe.recipe_id,
        max_sequence_length=parameters.max_sequence_length,
        max_sequences_per_pack=parameters.max_sequences_per_pack,
        max_predictions_per_sequence=parameters.max_predictions_per_sequence,
        shards=tuple(entry.shard for entry in stored),
    )
    expected = (recipe.statistics["packs"], recipe.histogram.sequences, recipe.histogram.tokens)
    found = (manifest.packs, manifest.sequences, manifest.tokens)
    if found != expected:
        raise VerificationError(
            f"recipe {recipe.recipe_id}: expected (packs, sequences, tokens) {expected}, packed shards hold {found}"
        )
    signature = _sign(storage, destination, recipe, manifest, key) if key else None
    if announce:
        announce(manifest, signature)
    if signature:
        storage.write(signature_uri(destination, recipe.recipe_id), signature.document)
    uri = manifest_uri(destination, recipe.recipe_id)
    write_manifest(storage, uri, manifest)
    point_to(storage, destination, recipe.recipe_id)
    pointer = {
        "recipe_id": recipe.recipe_id,
        "manifest_digest": digest(manifest_to_json(manifest)),
        "etags": {entry.shard.uri: entry.etag for entry in stored},
    }
    write_cached(storage, _input_uri(destination, recipe.input_id), pointer)
    return manifest


def _sign(storage: Storage, destination: str, recipe: Recipe, manifest: Manifest, key: SigningKey) -> Signature:
    uri, content = recipe_uri(destination, recipe.recipe_id), recipe_bytes(recipe)
    if storage.read(uri) != content:
        raise VerificationError(f"{uri}: is not stored as Stowage writes it, so it is not signed; remove it, run again")
    return key.sign(recipe.recipe_id, content, manifest_bytes(manifest))


def point_to(storage: Storage, destination: str, recipe_id: str) -> str:
    """Let the pointers name this recipe, if they do not yet: one for refreshes, and `latest.json` for people.

    Gives the recipe that the former named before, as `find_latest` does.
    """
    before = find_latest(storage, destination)
    if before != recipe_id:
        write_cached(storage, _current_uri(destination), {"recipe_id": recipe_id})
    uri = f"{destination}/latest.json"
    content = pretty({"manifest": manifest_uri(destination, recipe_id), "recipe_id": recipe_id})
    try:
        if storage.read(uri) == content:
            return before
    except ObjectNotFoundError:
        pass
    storage.write(uri, content)
    return before


def find_latest(storage: Storage, destination: str) -> str:
    """The recipe that the last refresh led to, as the index remembers it; "" if that is missing or damaged.

    What a dataset is never depends on it: it only tells a refresh whether another dataset was current before.
    """
    return read_cached(storage, _current_uri(destination), lambda document: str(document["recipe_id"])) or ""


def _current_uri(destination: str) -> str:
    return f"{destination}/index/current.json"


def find_written(storage: Storage, destination: str, recipe: Recipe) -> dict[str, tuple[StoredShard, ...]]:
    """The packed shards of those partitions of `recipe` that are complete in the store."""
    look = partial(read_written, destination=destination)
    found = zip(recipe.partitions, threads(storage, LOOKUPS)(look, recipe.partitions), strict=True)
    return {partition.digest: shards for partition, shards in found if shards is not None}


def manifest_uri(destination: str, recipe_id: str) -> str:
    """Where a destination keeps the manifest of a recipe's packed dataset."""
    return f"{destination}/manifests/{recipe_id}.json"


def _input_uri(destination: str, input_id: str) -> str:
    return f"{destination}/index/inputs/{input_id}.json"
