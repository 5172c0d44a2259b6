"""A record's recipe and manifest, read from MLflow and checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from packing.documents import parse_document
from packing.errors import InputError, RunNotFoundError, VerificationError
from packing.manifest import manifest_from_json
from packing.ports import Tracker
from packing.recipe import recipe_from_json
from packing.recipe_checks import recipe_problems
from packing.recipe_shape import document_problems
from packing.types import Manifest, Recipe
from stowage_airflow.page.records import Record

RECIPE = "recipe/recipe.json"
MANIFEST = "recipe/manifest.json"


@dataclass(frozen=True)
class Examined:
    """A recipe, and what of its figures does not follow from the rest of it, in words."""

    recipe: Recipe
    problems: tuple[str, ...]


@dataclass(frozen=True)
class FoundManifest:
    """A manifest, or what is wrong with the artifact that should be one; neither if there is none."""

    manifest: Manifest | None = None
    problem: str = ""


def read_artifact(tracker: Tracker, record: Record, path: str) -> bytes:
    """An artifact of a record as it is; raises RunNotFoundError, which does not say where MLflow is."""
    try:
        return tracker.read_artifact(record.run_id, path)
    except RunNotFoundError as exc:
        raise RunNotFoundError(f"MLflow run {record.run_id} has no artifact {path}; it may have been removed") from exc


def read_recipe(tracker: Tracker, record: Record) -> Examined:
    """The recipe of a record.

    Raises VerificationError if it is not the one that the record names, or was altered, InputError if it is none,
    RunNotFoundError if there is no such artifact.
    """
    where = f"MLflow run {record.run_id}, {RECIPE}"
    examined = _examine(read_artifact(tracker, record, RECIPE), where)
    if examined.recipe.recipe_id != record.recipe_id:
        raise VerificationError(
            f"{where}: expected recipe {record.recipe_id}, as the run's param says, found "
            f"{examined.recipe.recipe_id}; the artifact was replaced, compare it with the one in the store"
        )
    return examined


def find_manifest(tracker: Tracker, record: Record) -> FoundManifest:
    """The manifest of a record, which may have none as an artifact."""
    where = f"MLflow run {record.run_id}, {MANIFEST}"
    try:
        return FoundManifest(_checked_manifest(read_artifact(tracker, record, MANIFEST), where, record))
    except RunNotFoundError:
        return FoundManifest()
    except (InputError, VerificationError) as exc:
        return FoundManifest(problem=str(exc))


def _checked_manifest(content: bytes, where: str, record: Record) -> Manifest:
    manifest = manifest_from_json(parse_document(content, where, "manifest"), where)
    if manifest.recipe_id != record.recipe_id:
        raise VerificationError(
            f"{where}: expected the manifest of recipe {record.recipe_id}, found that of {manifest.recipe_id}; "
            "the artifact was replaced, compare it with the one in the store"
        )
    return manifest


# An examination follows from the bytes alone, and takes seconds where packs hold many sequences of many lengths.
@lru_cache(maxsize=8)
def _examine(content: bytes, where: str) -> Examined:
    document: Mapping[str, Any] = parse_document(content, where, "recipe")
    if problems := document_problems(document):
        raise InputError(f"{where}: not a recipe ({'; '.join(problems[:5])}); compare it with the one in the store")
    recipe = recipe_from_json(document, where)
    return Examined(recipe, tuple(recipe_problems(recipe)))
