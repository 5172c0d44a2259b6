"""What a person is asked before a packed dataset becomes the current one, over a store and a tracker in memory."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from types import SimpleNamespace
from typing import Any

import pytest

from packing.commit import find_latest
from packing.in_memory import MemoryRun, MemoryStorage, MemoryTracker
from packing.parallel import serial
from packing.pipeline import refresh
from packing.recipe import recipe_uri
from packing.report.record import RefreshRecord
from packing.types import Parameters
from tests.builders import random_sizes, raw_shard, stages_of, store_with
from tests.plugin import importable_plugin

SMALL = Parameters(
    max_sequence_length=64, max_sequences_per_pack=3, max_predictions_per_sequence=10, partition_bytes=12_000
)


@pytest.fixture(autouse=True)
def plugins(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with importable_plugin(monkeypatch):
        yield


def shards(prefix: str, *seeds: int, count: int = 30, content: int = 0) -> dict[str, bytes]:
    """Of the same lengths whatever their `content`."""
    return {f"{prefix}-{n}": raw_shard(random_sizes(count, seed=n), seed=n + 1000 * content) for n in seeds}


@dataclass
class Refreshes:
    """Refreshes of one destination, and what each would ask."""

    storage: MemoryStorage = field(default_factory=lambda: store_with(shards("part", *range(6))))
    tracker: MemoryTracker = field(default_factory=MemoryTracker)
    parameters: Parameters = SMALL

    def put(self, found: dict[str, bytes]) -> None:
        for name, content in found.items():
            self.storage.write(f"/raw/{name}", content)

    def remove(self, *names: str) -> None:
        for name in names:
            self.storage.delete(f"/raw/{name}")

    def commit(self) -> str:
        """Refresh without asking; gives the recipe's id."""
        record = RefreshRecord(self.storage, self.tracker, "/raw", "/out", {})
        stages = stages_of(serial(self.storage))
        told = {"on_recipe": record.add_recipe, "on_manifest": record.add_manifest}
        found = refresh(self.storage, stages, "/raw", "/out", self.parameters, **told)  # type: ignore[arg-type]
        record.mark_committed(found.recipe)
        return found.recipe.recipe_id

    def solve(self) -> tuple[str, bool]:
        """What the DAG's solve finds: a recipe's id, and whether its packed dataset exists."""
        from packing.commit import find_current
        from packing.listing import list_raw_shards
        from packing.recipe import contents_of, dataset_input_id
        from packing.scan import scan_shard
        from packing.solve import solve_recipe

        listed = list_raw_shards(self.storage, "/raw")
        summaries = [scan_shard(self.storage, shard, destination="/out", max_rejected=0) for shard in listed]
        if exists := find_current(self.storage, "/out", dataset_input_id(self.parameters, contents_of(summaries))):
            return exists[0].recipe_id, True
        recipe = solve_recipe(self.storage, serial(self.storage), "/out", self.parameters, summaries)
        RefreshRecord(self.storage, self.tracker, "/raw", "/out", {}).add_recipe(recipe)
        return recipe.recipe_id, False

    def ask(self, above: float | None = 10) -> str:
        from stowage_airflow.approval_question import approval_question

        recipe_id, exists = self.solve()
        solved = {"recipe_id": recipe_id, "exists": exists, "current": find_latest(self.storage, "/out")}
        params = {"source": "/raw", "destination": "/out", "approve_above": above}
        return approval_question(self.storage, self.tracker, solved, params)


@pytest.fixture
def refreshes() -> Refreshes:
    """With one that was committed."""
    refreshes = Refreshes()
    assert refreshes.ask() == "", "the first one"
    refreshes.commit()
    return refreshes


def test_nobody_is_asked_about_what_is_current_or_without_a_threshold(refreshes: Refreshes) -> None:
    assert refreshes.ask(0) == ""
    refreshes.put(shards("part", 3, content=1))
    assert refreshes.ask(None) == ""


def test_replaced_data_of_the_same_lengths_is_asked_about(refreshes: Refreshes) -> None:
    refreshes.put(shards("part", *range(6), content=1))
    question = refreshes.ask(99)
    assert question.splitlines()[0] == (
        "The recipe of `/raw` for `/out` differs from the current one: sequences kept, sequences added."
    )
    assert "| sequences kept | 180 | 0 | **100 %** |" in question
    assert "| size in slots |" in question
    assert "- 6 changed: part-0, part-1, part-2, part-3, part-4 and 1 more" in question
    assert refreshes.ask(100) == ""


def test_what_went_is_not_made_up_for_by_what_came(refreshes: Refreshes) -> None:
    refreshes.remove("part-0", "part-1", "part-2")
    refreshes.put(shards("other_one", 0, 1, 2, content=1))
    question = refreshes.ask(49)
    assert "| sequences kept | 180 | 90 | **50 %** |" in question
    assert "| sequences added | 0 | 90 | **50 %** |" in question
    assert "- 3 gone: part-0, part-1, part-2\n- 3 new: other\\_one-0, other\\_one-1, other\\_one-2" in question


@pytest.mark.parametrize("change", [{"max_sequence_length": 80}, {"max_sequences_per_pack": 4}])
def test_another_shape_of_packs_is_asked_about_whatever_the_figures(
    refreshes: Refreshes, change: dict[str, int]
) -> None:
    refreshes.parameters = replace(SMALL, **change, seed=7)  # type: ignore[arg-type]
    question = refreshes.ask(1000)
    ((name, value),) = change.items()
    assert question.splitlines()[0].endswith(f"differs from the current one: {name}.")
    assert f"| {name} | {getattr(SMALL, name)} | {value} | **another value** |" in question
    assert "| seed | 0 | 7 | another value |" in question
    assert refreshes.ask(None) == ""


def test_a_return_to_an_earlier_dataset_is_asked_about(refreshes: Refreshes) -> None:
    first, _ = refreshes.solve()
    refreshes.put(shards("more", *range(50, 54), count=60))
    second, _ = refreshes.solve()
    assert f"Current recipe `{first}`, new recipe `{second}`" in refreshes.ask()
    assert refreshes.commit() == second
    refreshes.remove(*(f"more-{n}" for n in range(50, 54)))
    assert refreshes.solve() == (first, True)
    question = refreshes.ask()
    assert f"Current recipe `{second}`, new recipe `{first}`" in question
    assert "| sequences kept | 420 | 180 | **57.1 %** |" in question


def test_the_store_knows_what_is_current_whatever_mlflow_was_told(refreshes: Refreshes) -> None:
    first, _ = refreshes.solve()
    (name,) = refreshes.tracker.registered
    registered = copy.deepcopy(refreshes.tracker.registered[name])
    refreshes.put(shards("another", 9))
    second = refreshes.commit()
    refreshes.tracker.registered[name] = registered  # as if MLflow had refused to be told
    assert refreshes.ask(0) == "", "nothing is new"
    refreshes.put(shards("more", 10))
    question = refreshes.ask(0)
    assert f"Current recipe `{second}`, new" in question
    assert f"MLflow's alias `current` names another recipe, `{first}`" in question


def test_where_nobody_knows_a_current_recipe_a_person_decides(refreshes: Refreshes) -> None:
    refreshes.storage.delete("/out/index/current.json")
    first, _ = refreshes.solve()
    refreshes.put(shards("another", 9))
    assert f"Current recipe `{first}`, new" in refreshes.ask(0), "MLflow knows"
    refreshes.remove("another-9")
    refreshes.tracker.registered.clear()
    assert refreshes.ask() == "", "nothing is new"
    refreshes.put(shards("another", 9))
    question = refreshes.ask()
    assert "neither the store nor MLflow knows which one is current" in question
    assert f"New recipe `{refreshes.solve()[0]}`" in question


@pytest.mark.parametrize("content", [None, b"no recipe"])
def test_where_the_current_recipe_cannot_be_read_a_person_decides_and_is_told_which(
    refreshes: Refreshes, content: bytes | None
) -> None:
    first, _ = refreshes.solve()
    uri = recipe_uri("/out", first)
    refreshes.put(shards("another", 9))
    refreshes.solve()
    refreshes.storage.objects.pop(uri)
    if content:
        refreshes.storage.objects[uri] = content
    question = refreshes.ask()
    assert "cannot be read, so nothing can be compared" in question.splitlines()[0]
    assert f"What is missing: {uri}: " in question
    assert f"Current recipe `{first}`, new" in question
    assert refreshes.ask(None) == ""


def test_the_question_says_how_it_was_answered_before(refreshes: Refreshes) -> None:
    from stowage_airflow.approval_question import ANSWERS, record_answer

    refreshes.remove("part-0", "part-1")
    assert "asked about before" not in refreshes.ask()
    recipe_id, _ = refreshes.solve()
    for number in range(ANSWERS + 3):
        record_answer(refreshes.tracker, recipe_id, "/out", f"rejected by op{number}")
    assert f"This recipe was asked about before: rejected by op{ANSWERS + 2}." in refreshes.ask()
    assert len(refreshes.tracker.runs) == 2, "one for each recipe, however often it was rejected"
    answers = approvals(refreshes.tracker, recipe_id)
    assert answers == [f"rejected by op{number}" for number in range(ANSWERS + 2, 2, -1)]


def approvals(tracker: MemoryTracker, recipe_id: str) -> list[str]:
    runs: list[MemoryRun] = [run for run in tracker.runs.values() if run.params["recipe_id"] == recipe_id]
    (run,) = runs
    return run.tags["stowage.approval"].splitlines()


class TaskInstance(SimpleNamespace):
    """What the operator uses of one."""

    def xcom_pull(self, **_: str) -> dict[str, Any]:
        return dict(self.solved)

    def xcom_push(self, key: str, value: Any) -> None:
        self.pushed = {**vars(self).get("pushed", {}), key: value}


@pytest.mark.parametrize(
    ("chosen", "away"), [("Approve", False), ("Reject", False), ("Approve", True), ("Reject", True)]
)
def test_an_answer_is_recorded_wherever_it_can_be(
    refreshes: Refreshes, monkeypatch: pytest.MonkeyPatch, chosen: str, *, away: bool
) -> None:
    from packing.errors import TrackingError
    from stowage_airflow import approval

    def open_tracker() -> MemoryTracker:
        if away:
            raise TrackingError("connection refused")
        return refreshes.tracker

    monkeypatch.setattr(approval, "open_tracker", open_tracker)
    refreshes.remove("part-0", "part-1")
    recipe_id, _ = refreshes.solve()
    operator = approval.ApproveRecipeOperator(task_id="approve", solved_by="solve")
    ti = TaskInstance(solved={"recipe_id": recipe_id})
    at = datetime(2026, 3, 1, 12, 30, tzinfo=timezone(timedelta(hours=2)))
    context: Any = {"ti": ti, "task": operator, "params": {"approve_above": 10.0, "destination": "/out"}}
    event = {
        "chosen_options": [chosen],
        "params_input": {},
        "responded_at": at,
        "responded_by_user": {"id": "1", "name": "ada"},
    }
    operator.execute_complete(context, event)
    assert ti.pushed == {"answer": {"answer": chosen, "by": "ada"}}
    json.dumps(ti.pushed)
    run = next(run for run in refreshes.tracker.runs.values() if run.params["recipe_id"] == recipe_id)
    word = {"Approve": "approved", "Reject": "rejected"}[chosen]
    expected = None if away else f"{word} by ada, 2026-03-01 10:30 UTC, asked above 10 %"
    assert run.tags.get("stowage.approval") == expected


def test_a_notice_that_cannot_be_sent_leaves_the_question() -> None:
    from stowage_airflow.approval import ApproveRecipeOperator

    told: list[Any] = []

    def unreachable(context: Any) -> None:
        told.append(context)
        raise OSError("mail server away")

    operator = ApproveRecipeOperator(task_id="approve", solved_by="solve", notifiers=[unreachable, told.append])
    for notify in operator.notifiers:
        notify({"task": operator})
    assert told == [{"task": operator}] * 2
