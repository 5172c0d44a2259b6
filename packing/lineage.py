"""What joins the runs of a tracker: recipe runs and training runs have datasets in common and name each other."""

from __future__ import annotations

from packing.features import Feature, packed_features
from packing.ports import InputDataset, TrackedRun, Tracker
from packing.types import Manifest, Recipe

RECIPES = "packing-recipes"
"""The experiment of recipe runs."""

PACKED = "stowage.packed"
"""The tag of a recipe run that knows all of its packed dataset: the URI of the manifest, which is stored next."""

MANIFEST = "stowage.manifest"
"""The tag of a recipe run whose packed dataset exists: the URI of the manifest, told once that is stored."""

RECENT_RUNS = 20
"""Of a destination or a recipe, which are looked through for what was not told or not finished."""

DESCRIPTION = "mlflow.note.content"

_TYPES = {"int64": "long", "float32": "float"}


def raw_dataset(recipe: Recipe, source: str) -> InputDataset:
    """The raw shards of a recipe, as the tracker lists them; told from others by the fingerprint's first 128 bits."""
    profile = {
        "fingerprint": recipe.fingerprint,
        "shards": len(recipe.shards),
        "bytes": sum(shard.size for shard in recipe.shards),
        "sequences": recipe.histogram.sequences,
        "rejected": len(recipe.rejected),
    }
    return InputDataset(source, dataset_digest(recipe.fingerprint), source, "raw", {}, profile)


def packed_dataset(manifest: Manifest, uri: str, context: str) -> InputDataset:
    """The packed dataset of the manifest at `uri`; the same in each run, but for the `context`."""
    features = packed_features(
        manifest.max_sequence_length, manifest.max_predictions_per_sequence, manifest.max_sequences_per_pack
    )
    profile = {
        "recipe_id": manifest.recipe_id,
        "shards": len(manifest.shards),
        "bytes": manifest.bytes,
        "packs": manifest.packs,
        "sequences": manifest.sequences,
        "tokens": manifest.tokens,
    }
    schema = {"mlflow_colspec": [_column(feature) for feature in features]}
    return InputDataset(destination_of(uri), dataset_digest(manifest.recipe_id), uri, context, schema, profile)


def dataset_digest(identity: str) -> str:
    """How the tracker tells datasets apart: the first 128 bits of a fingerprint or of a `recipe_id`, in hexadecimal."""
    return identity[:32]


def _column(feature: Feature) -> dict[str, object]:
    items = {"type": _TYPES[feature.dtype]}
    return {"name": f"{feature.name}[{feature.length}]", "type": "array", "items": items, "required": True}


def destination_of(manifest_uri: str) -> str:
    """The destination below which a manifest is kept."""
    return manifest_uri.rsplit("/", 2)[0]


def recipe_runs(tracker: Tracker, recipe_id: str, **places: str) -> list[TrackedRun]:
    """Of the newest runs of the recipe, those whose params name these places, newest first.

    Compared here, as MLflow cannot look for each name that a place may have.
    """
    found = tracker.find_runs(RECIPES, params={"recipe_id": recipe_id}, limit=RECENT_RUNS)
    return [run for run in found.runs if places.items() <= run.params.items()]


def find_recipe_run(tracker: Tracker, recipe_id: str, manifest_uri: str) -> TrackedRun | None:
    """The newest run of the recipe that led to this manifest, or None if it was not recorded.

    Whoever asks has the manifest, so it does not matter whether the tracker was told that it exists. Older records have
    no other tag than that which tells it.
    """
    for tag in (PACKED, MANIFEST):
        found = tracker.find_runs(RECIPES, params={"recipe_id": recipe_id}, tags={tag: manifest_uri}, limit=1)
        if found.runs:
            return found.runs[0]
    return None
