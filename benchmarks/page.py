"""The page "Packing" over many recipes: how long Airflow's API server takes for each of its pages, with MLflow's part.

Two recipes are packed for real. The others are copies of the first one's run in MLflow under made-up ids, and the
trainings on them are as short: the list reads runs, whatever they are of.
"""

from __future__ import annotations

import hashlib
import statistics
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import urlencode

import requests

from benchmarks.datasets import tiny_raw_data
from benchmarks.measure import fresh, packing, run
from benchmarks.report import Part, Table, Target, at_most
from benchmarks.settings import REPOSITORY, Bench, say
from benchmarks.surroundings import plain_surroundings
from demo.airflow import USER, airflow_command, airflow_environment, connections, set_password
from demo.processes import Supervisor, free_port
from demo.servers import ARTIFACTS, start_mlflow, start_object_store
from demo.waiting import wait_until
from packing.adapters import open_tracker
from packing.lineage import DESCRIPTION, RECIPES, dataset_digest
from packing.ports import InputDataset, Metric, TrackedRun, Tracker

_TRAININGS = "bert-pretraining"
_WARM_UP, _SECONDS_TO_START, _TIMEOUT, _SEEDERS = 3, 120, 60, 4
_LIMIT_MS = 300


@dataclass(frozen=True)
class _Site:
    """A running API server, the login of its user, and the two recipes that it can show whole."""

    url: str
    headers: Mapping[str, str]
    recipes: tuple[TrackedRun, ...]

    def get(self, session: requests.Session, path: str) -> requests.Response:
        answer = session.get(f"{self.url}/stowage{path}", headers=dict(self.headers), timeout=_TIMEOUT)
        if answer.status_code != requests.codes.ok:
            raise RuntimeError(f"{path}: expected 200, got {answer.status_code}: {answer.text[:500]}")
        return answer


def measure(bench: Bench) -> Part:
    """Each page in turn, again and again, by one client that waits for each answer."""
    sizes = bench.sizes
    with _site(bench) as site, requests.Session() as session:
        session.trust_env = False
        pages = _pages(site)
        seconds: dict[str, list[float]] = {name: [] for name in pages}
        for turn in range(_WARM_UP + sizes.page_requests):
            for name, path in pages.items():
                started = time.perf_counter()
                site.get(session, path)
                if turn >= _WARM_UP:
                    seconds[name].append(1000 * (time.perf_counter() - started))
    rows = tuple((name, statistics.median(found), _ninth_decile(found), max(found)) for name, found in seconds.items())
    table = Table(
        f"{sizes.page_recipes:,} recipes and {sizes.page_trainings:,} trainings in MLflow on SQLite",
        ("page", "median, ms", "90th percentile, ms", "slowest, ms"),
        rows,
        (
            f"Milliseconds from request to end of answer, {sizes.page_requests} requests a page, as one client sees "
            "them on the same machine. MLflow and the object store compute on the same cores.",
        ),
    )
    return Part('The page "Packing" in Airflow', tuple(_targets(seconds, sizes.page_recipes)), (table,))


def _targets(seconds: Mapping[str, list[float]], recipes: int) -> Iterator[Target]:
    for name, found in seconds.items():
        yield at_most(f"page with {recipes:,} recipes: {name}, 90th percentile", _ninth_decile(found), _LIMIT_MS, "ms")


def _ninth_decile(values: list[float]) -> float:
    return sorted(values)[int(0.9 * (len(values) - 1))]


def _pages(site: _Site) -> Mapping[str, str]:
    first, second = (found.params["recipe_id"] for found in site.recipes)
    destination = site.recipes[0].params["destination"]
    return {
        "the list": "/",
        "the list of one dataset": f"/?{urlencode({'destination': destination})}",
        "one recipe": f"/recipes/{first}?{urlencode({'run': site.recipes[0].run_id})}",
        "two recipes compared": f"/compare?{urlencode([('recipe', first), ('recipe', second)])}",
        "the form": "/refresh",
    }


@contextmanager
def _site(bench: Bench) -> Iterator[_Site]:
    """Airflow's API server with the DAGs in its database, MLflow, and the object store with MLflow's artifacts."""
    home, base = fresh(bench.scratch / "airflow"), plain_surroundings()
    environment = {**base, **airflow_environment(home, REPOSITORY, free_port())}
    with Supervisor(fresh(bench.scratch / "logs")) as supervisor:
        supervisor.start_job("airflow-db-migrate", airflow_command("db", "migrate"), environment).wait()
        store = start_object_store(supervisor, fresh(bench.scratch / "objects"), (ARTIFACTS,), base)
        mlflow = start_mlflow(supervisor, fresh(bench.scratch / "mlflow"), store, base)
        environment |= connections(store, mlflow)
        supervisor.start_job("airflow-dags", airflow_command("dags", "reserialize"), environment).wait()
        password = set_password(home)
        supervisor.start("airflow-api-server", airflow_command("api-server"), environment)
        recipes = _record(bench, {**base, "MLFLOW_TRACKING_URI": mlflow.url})
        url = environment["AIRFLOW__API__BASE_URL"]
        token = wait_until(partial(_token, url, password), "Airflow's API server", supervisor, _SECONDS_TO_START)
        yield _Site(url, {"Authorization": f"Bearer {token}"}, recipes)


def _token(url: str, password: str) -> str:
    """What the server gives for the login; "" while it does not answer yet."""
    try:
        answer = requests.post(f"{url}/auth/token", json={"username": USER, "password": password}, timeout=_TIMEOUT)
    except requests.ConnectionError:
        return ""
    return str(answer.json()["access_token"])


def _record(bench: Bench, environment: Mapping[str, str]) -> tuple[TrackedRun, ...]:
    raw, packed = str(tiny_raw_data(bench)), fresh(bench.scratch / "out")
    for sequences in ("3", "2"):
        run(packing("run", raw, str(packed / sequences), "--max-sequences-per-pack", sequences), environment)
    tracker = open_tracker(environment["MLFLOW_TRACKING_URI"])
    recipes = tracker.find_runs(RECIPES).runs
    say(f"  recording {bench.sizes.page_recipes} recipes")
    with ThreadPoolExecutor(_SEEDERS) as seeders:
        copies = range(bench.sizes.page_recipes - len(recipes))
        ids = list(seeders.map(partial(_copy, tracker, recipes[0]), copies))
        list(seeders.map(partial(_train, tracker), ids[-bench.sizes.page_trainings :]))
    return recipes


def _copy(tracker: Tracker, recipe: TrackedRun, number: int) -> str:
    """Record the run of a recipe once more, under another id; gives that."""
    recipe_id = hashlib.sha256(str(number).encode()).hexdigest()
    params = {**recipe.params, "recipe_id": recipe_id}
    # MLflow's own tags, but for the description, are made anew.
    tags = {key: value for key, value in recipe.tags.items() if key == DESCRIPTION or not key.startswith("mlflow.")}
    copy = tracker.start_run(RECIPES, f"recipe-{recipe_id[:12]}", params=params, tags=tags)
    _finish(copy, recipe.metrics)
    return recipe_id


def _train(tracker: Tracker, recipe_id: str) -> None:
    training = tracker.start_run(_TRAININGS, f"train-{recipe_id[:12]}", params={"recipe_id": recipe_id}, tags={})
    training.log_inputs([InputDataset("packed", dataset_digest(recipe_id), "packed", "training")])
    _finish(training, {"speedup": 1.25})


def _finish(started: Any, metrics: Mapping[str, float]) -> None:
    started.log_metrics(Metric(key, value, 0, time.time_ns() // 1_000_000) for key, value in metrics.items())
    started.finish()
