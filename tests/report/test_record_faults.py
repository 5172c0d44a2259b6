"""Wherever a refresh breaks off, its record never says more than the store holds, and the next refresh completes it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest

from packing.commit import commit, find_current, find_written, manifest_uri
from packing.errors import StorageError, StowageError, TrackingError
from packing.in_memory import MemoryRun, MemoryStorage, MemoryTracker
from packing.lineage import find_recipe_run
from packing.parallel import serial
from packing.pipeline import refresh
from packing.report import mark_committed, record_manifest
from packing.report.record import registered_name
from packing.signing import signature_uri
from packing.types import Parameters, Recipe
from tests.builders import random_sizes, raw_shard, stages_of, store_with
from tests.packing.test_signing import KEY

OUT = "/out"


class Killed(BaseException):
    """The process is gone: none of its code runs any more."""


STORE, TRACKER, PROCESS = "store", "tracker", "process"
ERRORS = {STORE: StorageError("no such bucket"), TRACKER: TrackingError("connection refused"), PROCESS: Killed()}


@dataclass
class Fault:
    """The step at which one party fails, for once or from then on, without having done its part or having done it."""

    party: str
    at: int
    lasts: bool
    done: bool
    watch: Callable[[], None]
    steps: int = field(default=0, init=False)
    failed: bool = field(default=False, init=False)

    def step(self, party: str, call: Callable[[], Any]) -> Any:
        self.steps += 1
        again = self.failed and self.lasts and self.party in {party, PROCESS}
        first = self.steps == self.at and self.party in {party, PROCESS}
        self.failed |= first
        if again or (first and not self.done):
            raise ERRORS[self.party]
        result = call()
        self.watch()
        if first:
            raise ERRORS[self.party]
        return result


class Failing:
    """Storage, tracker or run, each call of which is a step."""

    def __init__(self, inner: Any, party: str, fault: Fault) -> None:
        self._inner, self._party, self._fault = inner, party, fault

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        return partial(self._call, found) if callable(found) else found

    def _call(self, method: Callable[..., Any], *args: Any, **options: Any) -> Any:
        result = self._fault.step(self._party, lambda: method(*args, **options))
        return Failing(result, self._party, self._fault) if isinstance(result, MemoryRun) else result


@dataclass
class World:
    """A destination, its tracker, and the recipes of raw data as it was at first and with a shard more."""

    storage: MemoryStorage
    tracker: MemoryTracker
    recipes: tuple[Recipe, ...]

    def solved(self, recipe: Recipe) -> str:
        """A run as the solve leaves it."""
        params = {"recipe_id": recipe.recipe_id, "destination": OUT}
        run = self.tracker.start_run("packing-recipes", "recipe", params=params, tags={})
        run.finish()
        return run.run_id

    def refresh(self, recipe: Recipe, run_id: str, fault: Fault | None = None) -> None:
        """What is left of a refresh when all packs are written: the commit, if it is to be, and the record."""
        storage: Any = Failing(self.storage, STORE, fault) if fault else self.storage
        tracker: Any = Failing(self.tracker, TRACKER, fault) if fault else self.tracker
        if not find_current(storage, OUT, recipe.input_id):
            written = find_written(self.storage, OUT, recipe)
            announce = partial(record_manifest, tracker.open_run(run_id), uri=manifest_uri(OUT, recipe.recipe_id))
            commit(storage, OUT, recipe, written, key=KEY, announce=announce)
        mark_committed(tracker, storage, recipe.recipe_id, OUT)

    def is_current(self, recipe: Recipe) -> bool:
        return find_current(self.storage, OUT, recipe.input_id) is not None

    def check_nothing_is_made_up(self) -> None:
        claimed = [tags["manifest"] for own in self.tracker.registered.values() for _, tags in own.versions.values()]
        claimed += [run.tags.get("stowage.manifest", "") for run in self.tracker.runs.values()]
        assert set(claimed) - {""} <= self.storage.objects.keys()

    def check_all_is_told(self, recipe: Recipe) -> None:
        """Of this recipe, which is current, and of all that were committed before it."""
        found = find_recipe_run(self.tracker, recipe.recipe_id, manifest_uri(OUT, recipe.recipe_id))
        assert found
        assert "stowage.manifest" in found.tags
        registered = self.tracker.registered[registered_name(OUT)]
        assert registered.versions[registered.current][1]["recipe_id"] == recipe.recipe_id
        for run in self.tracker.runs.values():
            recipe_id = run.params["recipe_id"]
            uri, signature = manifest_uri(OUT, recipe_id), signature_uri(OUT, recipe_id)
            if {"stowage.packed", "stowage.manifest"} & run.tags.keys():
                assert run.tags["stowage.manifest"] == uri
                assert run.tags["stowage.signed_by"] == KEY.public.fingerprint
                assert run.artifacts["recipe/manifest.json"] == self.storage.objects[uri]
                assert run.artifacts["recipe/recipe.sig.json"] == self.storage.objects[signature]
                assert [dataset.uri for dataset in run.inputs] == [uri]


class AllWritten(Exception):  # noqa: N818 - no error
    """Where the refresh of this test stops."""


@pytest.fixture(scope="module")
def written() -> World:
    """All packs are written, and nothing is committed."""
    storage, recipes = store_with({"part-0": raw_shard(random_sizes(10, seed=0))}), []
    parameters = Parameters(max_sequence_length=64, max_predictions_per_sequence=10)

    def stop(*_: object) -> None:
        raise AllWritten

    for number in (1, 2):
        with suppress(AllWritten):
            refresh(
                storage, stages_of(serial(storage)), "/raw", OUT, parameters, on_recipe=recipes.append, on_manifest=stop
            )
        storage.write(f"/raw/part-{number}", raw_shard(random_sizes(10, seed=number), seed=number))
    return World(storage, MemoryTracker(), tuple(recipes))


def nothing_before(world: World) -> Recipe:
    return world.recipes[0]


def another_before(world: World) -> Recipe:
    world.refresh(world.recipes[0], world.solved(world.recipes[0]))
    return world.recipes[1]


def another_before_that_was_not_told(world: World) -> Recipe:
    another_before(world)
    for run in world.tracker.runs.values():
        del run.tags["stowage.manifest"]
    world.tracker.registered.clear()
    return world.recipes[1]


def back_to_an_earlier_one(world: World) -> Recipe:
    recipe = another_before(world)
    world.refresh(recipe, world.solved(recipe))
    return world.recipes[0]


def back_to_an_earlier_one_that_was_not_told(world: World) -> Recipe:
    recipe = another_before_that_was_not_told(world)
    world.refresh(recipe, world.solved(recipe))
    del world.tracker.runs["run-1"].tags["stowage.manifest"]
    return world.recipes[0]


def made_again(world: World) -> Recipe:
    """What lets a refresh find it is lost, so a second run has the same manifest."""
    another_before(world)
    for uri in [uri for uri in world.storage.objects if "/index/inputs/" in uri]:
        world.storage.delete(uri)
    return world.recipes[0]


STORIES = (
    nothing_before,
    another_before,
    another_before_that_was_not_told,
    back_to_an_earlier_one,
    back_to_an_earlier_one_that_was_not_told,
    made_again,
)


def broken_off(written: World, story: Callable[[World], Recipe], **kind: Any) -> Iterator[tuple[World, Recipe, str]]:
    """The world after a refresh that failed so, at each of its steps; the run is the one that it had."""
    at, reached = 1, True
    while reached:
        world = copy.deepcopy(written)
        recipe = story(world)
        run_id = world.solved(recipe)
        fault = Fault(at=at, watch=world.check_nothing_is_made_up, **kind)
        found = world.is_current(recipe)
        try:
            world.refresh(recipe, run_id, fault)
        except (StowageError, Killed):
            # Else the next refresh would find it and emit no event, and nobody would ever be told of the dataset.
            certain = kind["party"] == TRACKER or (kind["party"] == STORE and not kind["done"])
            assert found or not certain or not world.is_current(recipe)
        at, reached = at + 1, fault.steps >= at
        yield world, recipe, run_id
    assert at > 5


@pytest.mark.parametrize("done", [False, True], ids=["refused", "answer lost"])
@pytest.mark.parametrize(
    ("party", "lasts"), [(STORE, False), (STORE, True), (TRACKER, False), (TRACKER, True), (PROCESS, True)]
)
@pytest.mark.parametrize("story", STORIES)
def test_wherever_a_refresh_breaks_off_the_next_completes_its_record(
    written: World, story: Callable[[World], Recipe], party: str, *, lasts: bool, done: bool
) -> None:
    for world, recipe, run_id in broken_off(written, story, party=party, lasts=lasts, done=done):
        retried = copy.deepcopy(world)
        for after, run in ((retried, run_id), (world, world.solved(recipe))):
            after.refresh(recipe, run)
            after.check_nothing_is_made_up()
            after.check_all_is_told(recipe)
            assert after.is_current(recipe)


def test_what_was_solved_and_not_committed_is_not_said_to_be(written: World) -> None:
    """Also where a dataset of the same destination is, and where the solve's run is newer than the commit's."""
    world = copy.deepcopy(written)
    recipe = another_before(world)
    runs = [world.solved(recipe), world.solved(world.recipes[0])]
    world.refresh(world.recipes[0], "none, as nothing changed")
    assert all(world.tracker.runs[run].tags == {} for run in runs)
    world.check_all_is_told(world.recipes[0])


def test_a_manifest_that_is_not_the_recipes_is_not_taken_for_it(written: World) -> None:
    world = copy.deepcopy(written)
    recipe = another_before_that_was_not_told(world)
    earlier = manifest_uri(OUT, world.recipes[0].recipe_id)
    for content in (b"{", None):
        if content is None:
            del world.storage.objects[earlier]
        else:
            world.storage.objects[earlier] = content
        world.refresh(recipe, world.solved(recipe))
        assert "stowage.manifest" not in world.tracker.runs["run-1"].tags
