"""The page's routes. Each one, files and unknown paths included, is for users who may read the refresh DAG's runs."""

from __future__ import annotations

import asyncio
import importlib
import os
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import asynccontextmanager, contextmanager, nullcontext
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import Depends, FastAPI, Query, Request, Response
from starlette.exceptions import HTTPException

from packing.errors import UsageError
from packing.ports import Tracker
from stowage_airflow.connections import mlflow_uri, open_tracker
from stowage_airflow.page import records
from stowage_airflow.page.access import may_refresh, may_see_recipes, may_see_trainings
from stowage_airflow.page.anatomy import take_apart
from stowage_airflow.page.artifacts import MANIFEST, RECIPE, Examined, find_manifest, read_artifact, read_recipe
from stowage_airflow.page.comparison import compare
from stowage_airflow.page.failures import About, answer_failures
from stowage_airflow.page.form import Form, prefill, read_form
from stowage_airflow.page.patience import Gate
from stowage_airflow.page.render import STATIC, digest_of, media_type, render, respond
from stowage_airflow.page.words import describe_gap


def page_tracker() -> Tracker:
    """MLflow, with little patience: somebody waits for the page.

    MLflow's client knows no other way than its environment, which it reads at each request. The API server runs no
    tasks, so only other plugins that use MLflow there share these limits; those that somebody has set remain.
    """
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    return open_tracker()


async def take_turn(request: Request) -> AsyncIterator[None]:
    """For routes that ask MLflow."""
    async with request.app.state.gate.turn():
        yield


async def take_turn_to_prefill(request: Request, recipe: str = "") -> AsyncIterator[None]:
    """For the form, which asks MLflow only for a recipe: without one it works whatever becomes of MLflow."""
    async with request.app.state.gate.turn() if recipe else nullcontext():
        yield


Store = Annotated[Tracker, Depends(page_tracker)]
MlflowUrl = Annotated[str, Depends(mlflow_uri)]
MaySeeTrainings = Annotated[bool, Depends(may_see_trainings)]
MayRefresh = Annotated[bool, Depends(may_refresh)]
RefreshForm = Annotated[Form, Depends(read_form)]

_LOOKUPS = ThreadPoolExecutor(8, "packing-page")


@contextmanager
def _together() -> Iterator[Callable[..., Future[Any]]]:
    """Ask MLflow for several things at the same time; none is left to be asked for when a page gives its turn back."""
    asked: list[Future[Any]] = []

    def ask(find: Callable[..., Any], *arguments: Any) -> Future[Any]:
        asked.append(_LOOKUPS.submit(find, *arguments))
        return asked[-1]

    try:
        yield ask
    finally:
        wait(asked)


def create_app() -> FastAPI:
    """The application that Airflow mounts; it has no pages of its own about its interface."""
    app = FastAPI(
        title="Packing",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        dependencies=[Depends(may_see_recipes)],
        lifespan=_lifespan,
    )
    app.state.gate = Gate()
    read, asks = ["GET", "HEAD"], [Depends(take_turn, scope="function")]
    app.api_route("/", methods=read, dependencies=asks)(list_recipes)
    app.api_route("/recipes/{recipe_id}", methods=read, dependencies=asks)(show_recipe)
    app.api_route("/recipes/{recipe_id}/recipe.json", methods=read, dependencies=asks)(download_recipe)
    app.api_route("/recipes/{recipe_id}/manifest.json", methods=read, dependencies=asks)(download_manifest)
    app.api_route("/compare", methods=read, dependencies=asks)(compare_recipes)
    prefills = [Depends(take_turn_to_prefill, scope="function")]
    app.api_route("/refresh", methods=read, dependencies=prefills)(show_form)
    app.api_route("/static/{digest}/{name}", methods=read)(static_file)
    # No methods are all methods, those included that nobody knows: who asks is judged before what is asked for.
    app.api_route("/{path:path}", methods=[], operation_id="elsewhere")(elsewhere)
    answer_failures(app)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:  # noqa: ARG001 - the signature is FastAPI's
    """Load MLflow's client, which takes seconds, before anybody waits for it."""
    loading = asyncio.create_task(asyncio.to_thread(importlib.import_module, "mlflow.tracking"))
    yield
    await loading


def list_recipes(
    request: Request,
    tracker: Store,
    mlflow_url: MlflowUrl,
    may_see: MaySeeTrainings,
    destination: str = "",
    page: str = "",
) -> Response:
    """Recipes, newest first."""
    wanted = destination.strip().rstrip("/")
    found = records.list_records(tracker, wanted, page)
    places = {record.destination for record in found.records}
    # Each costs two requests, so that of many destinations is not asked for.
    with _together() as ask:
        current = ask(records.find_current, tracker, places.pop()) if len(places) == 1 else None
        trainings = records.trainings_on(tracker, found.records) if may_see else None
    return render(
        request,
        "list.html",
        records=found.records,
        next_page=found.next_page,
        destination=wanted,
        known=records.known_destinations(tracker) if wanted and not found.records else (),
        page=page,
        trainings=trainings,
        current=current.result() if current else None,
        mlflow_url=mlflow_url,
    )


def show_recipe(
    request: Request,
    tracker: Store,
    mlflow_url: MlflowUrl,
    may_see: MaySeeTrainings,
    recipe_id: str,
    run: str = "",
    destination: str = "",
) -> Response:
    """One recipe, in one of its records."""
    every = records.find_records(tracker, recipe_id)
    record = records.choose_record(every, run, destination)
    request.state.about = About(record, mlflow_url)
    with _together() as ask:
        trainings = ask(records.trainings_of, tracker, recipe_id) if may_see else None
        manifest = ask(find_manifest, tracker, record)
        current = ask(records.find_current, tracker, record.destination)
        examined = read_recipe(tracker, record)
    return render(
        request,
        "recipe.html",
        record=record,
        other_records=[other for other in every if other is not record],
        recipe=examined.recipe,
        problems=examined.problems,
        gap_word=_gap_word(examined),
        anatomy=take_apart(examined.recipe),
        manifest=manifest.result().manifest,
        manifest_problem=manifest.result().problem,
        current=current.result(),
        trainings=trainings.result() if trainings else None,
        mlflow_url=mlflow_url,
    )


def _gap_word(examined: Examined) -> str:
    statistics = examined.recipe.statistics
    return "not proven" if examined.problems else describe_gap(statistics["packs"], statistics["lower_bound"])


def download_recipe(tracker: Store, recipe_id: str, run: str = "") -> Response:
    """The artifact as it is, whatever it holds: who doubts it wants to look at it."""
    return _download(tracker, recipe_id, run, RECIPE, "recipe")


def download_manifest(tracker: Store, recipe_id: str, run: str = "") -> Response:
    """The manifest as MLflow has it."""
    return _download(tracker, recipe_id, run, MANIFEST, "manifest")


def _download(tracker: Tracker, recipe_id: str, run: str, path: str, kind: str) -> Response:
    record = records.choose_record(records.find_records(tracker, recipe_id), run)
    content = read_artifact(tracker, record, path)
    name = f'attachment; filename="{kind}-{quote(recipe_id[:12], safe="")}.json"'
    return respond(content, "application/json", headers={"Content-Disposition": name})


def compare_recipes(
    request: Request, tracker: Store, mlflow_url: MlflowUrl, recipe: Annotated[list[str] | None, Query()] = None
) -> Response:
    """Two records side by side, each given by its recipe's id, or by that, a colon and its run's id."""
    if len(recipe or ()) != 2:
        raise UsageError(f"compare: expected two recipes, got {len(recipe or ())}; choose two in the list")
    chosen = [records.open_record(tracker, name) for name in recipe or ()]
    # Older first, in whatever order they were chosen.
    left, right = sorted(chosen, key=lambda record: record.started)
    if left.run_id == right.run_id:
        raise UsageError(f"compare: expected two records, got MLflow run {left.run_id} twice; choose two in the list")
    examined = []
    for record in (left, right):
        request.state.about = About(record, mlflow_url)
        examined.append(read_recipe(tracker, record))
    older, newer = examined
    return render(
        request,
        "compare.html",
        sides=(("Older", left, older), ("Newer", right, newer)),
        left=left,
        right=right,
        comparison=compare(older.recipe, newer.recipe),
    )


def show_form(
    request: Request, tracker: Store, form: RefreshForm, may: MayRefresh, recipe: str = "", run: str = ""
) -> Response:
    """The form for a refresh or a dry run, prefilled with a recipe's source, destination and parameters."""
    record = records.choose_record(records.find_records(tracker, recipe), run) if recipe else None
    filled = prefill(form, record.params) if record else form
    return render(request, "refresh.html", form=filled, may_refresh=may, record=record)


def static_file(digest: str, name: str) -> Response:
    """A style sheet or script by its content."""
    if name not in STATIC or digest_of(name) != digest:
        raise HTTPException(404)
    cached = {"Cache-Control": "private, max-age=31536000, immutable"}
    return respond(STATIC[name], media_type(name), headers=cached)


def elsewhere() -> Response:
    """Whatever else is asked for, once it is known who asks."""
    raise HTTPException(404)
