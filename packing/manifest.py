"""The manifest as JSON. Readers start here and follow it; they never list a bucket."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from packing.documents import read_document
from packing.errors import InputError
from packing.features import packed_features
from packing.jsonio import pretty
from packing.ports import Storage
from packing.shape import COUNT, DIGEST, SIZE, TEXT, Shape, exactly, shape_problems
from packing.types import Manifest, PackedShard

SCHEMA_VERSION = 1

_SHAPE: Shape = {
    "schema_version": exactly(SCHEMA_VERSION),
    "recipe_id": TEXT,
    "features": [{"name": TEXT, "type": TEXT, "shape": [COUNT]}],
    "shards": [{"uri": TEXT, "bytes": SIZE, "packs": SIZE, "sequences": SIZE, "tokens": SIZE, "sha256": DIGEST}],
    "totals": {"shards": SIZE, "bytes": SIZE, "packs": SIZE, "sequences": SIZE, "tokens": SIZE},
}


def manifest_to_json(manifest: Manifest) -> dict[str, Any]:
    """The document that is stored; its features follow from L, P and K."""
    features = packed_features(
        manifest.max_sequence_length, manifest.max_predictions_per_sequence, manifest.max_sequences_per_pack
    )
    return {
        "schema_version": SCHEMA_VERSION,
        "recipe_id": manifest.recipe_id,
        "features": [{"name": f.name, "type": f.dtype, "shape": [f.length]} for f in features],
        "shards": [asdict(shard) for shard in manifest.shards],
        "totals": {
            "shards": len(manifest.shards),
            "bytes": manifest.bytes,
            "packs": manifest.packs,
            "sequences": manifest.sequences,
            "tokens": manifest.tokens,
        },
    }


def manifest_from_json(document: Mapping[str, Any], uri: str) -> Manifest:
    """Parse and check a manifest; raises InputError naming `uri` and what does not hold."""
    version = document.get("schema_version")
    if type(version) is int and version != SCHEMA_VERSION:
        raise InputError(
            f"{uri}: expected schema_version {SCHEMA_VERSION}, found {version}; "
            "read it with the version of Stowage that wrote it"
        )
    if problems := list(shape_problems(document, _SHAPE)):
        raise InputError(f"{uri}: not a manifest ({'; '.join(problems[:5])}); check the URI")
    shapes = {feature["name"]: sum(feature["shape"]) for feature in document["features"]}
    sequences_per_pack = shapes.get("next_sentence_labels", 0)
    manifest = Manifest(
        recipe_id=document["recipe_id"],
        max_sequence_length=shapes.get("input_ids", 0),
        max_sequences_per_pack=sequences_per_pack,
        max_predictions_per_sequence=shapes.get("masked_lm_positions", 0) - sequences_per_pack,
        shards=tuple(PackedShard(**shard) for shard in document["shards"]),
    )
    expected = manifest_to_json(manifest)
    for part in ("features", "totals"):
        if document[part] != expected[part]:
            raise InputError(f"{uri}: {part}: expected {expected[part]}, found {document[part]}")
    if len({shard.uri for shard in manifest.shards}) < len(manifest.shards):
        raise InputError(f"{uri}: shards: expected each packed shard once, found one listed twice")
    return manifest


def read_manifest(storage: Storage, uri: str) -> Manifest:
    """The manifest stored at `uri`; raises InputError if it is none, StorageError if it cannot be read."""
    return manifest_from_json(read_document(storage, uri, "manifest"), uri)


def manifest_bytes(manifest: Manifest) -> bytes:
    """The manifest as it is stored and as MLflow shows it."""
    return pretty(manifest_to_json(manifest))


def write_manifest(storage: Storage, uri: str, manifest: Manifest) -> None:
    """Store the manifest, which is what makes the dataset exist."""
    storage.write(uri, manifest_bytes(manifest))
