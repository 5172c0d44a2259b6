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
from packing.types import Manifest, PackedShard

SCHEMA_VERSION = 1


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
    try:
        if document["schema_version"] != SCHEMA_VERSION:
            raise InputError(
                f"{uri}: expected schema_version {SCHEMA_VERSION}, found {document['schema_version']!r}; "
                "read it with the version of Stowage that wrote it"
            )
        shapes = {feature["name"]: int(feature["shape"][0]) for feature in document["features"]}
        sequences_per_pack = shapes["next_sentence_labels"]
        manifest = Manifest(
            recipe_id=str(document["recipe_id"]),
            max_sequence_length=shapes["input_ids"],
            max_sequences_per_pack=sequences_per_pack,
            max_predictions_per_sequence=shapes["masked_lm_positions"] - sequences_per_pack,
            shards=tuple(_shard_from_json(shard) for shard in document["shards"]),
        )
        expected = manifest_to_json(manifest)
    except (KeyError, TypeError, ValueError, IndexError) as exc:
        raise InputError(f"{uri}: not a manifest ({type(exc).__name__}: {exc}); check the URI") from exc
    for part in ("features", "totals"):
        if document.get(part) != expected[part]:
            raise InputError(f"{uri}: {part}: expected {expected[part]}, found {document.get(part)}")
    return manifest


def _shard_from_json(document: Mapping[str, Any]) -> PackedShard:
    shard = PackedShard(**document)
    for name, value in asdict(shard).items():
        expected = str if name in ("uri", "sha256") else int
        if type(value) is not expected:
            raise TypeError(f"shards: {name}: expected {expected.__name__}, found {value!r}")
    return shard


def read_manifest(storage: Storage, uri: str) -> Manifest:
    """The manifest stored at `uri`; raises InputError if it is none, StorageError if it cannot be read."""
    return manifest_from_json(read_document(storage, uri, "manifest"), uri)


def write_manifest(storage: Storage, uri: str, manifest: Manifest) -> None:
    """Store the manifest, which is what makes the dataset exist."""
    storage.write(uri, pretty(manifest_to_json(manifest)))
