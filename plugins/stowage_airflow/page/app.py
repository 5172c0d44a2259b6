"""The page's routes. Each one, files and unknown paths included, is for users who may read the refresh DAG's runs."""

from __future__ import annotations

import asyncio
import importlib
import os
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from packing.errors import InputError, RunNotFoundError, StowageError, TrackingError, UsageError, VerificationError
from packing.ports import Tracker
from stowage_airflow.connections import mlflow_uri, open_tracker
from stowage_airflow.page import records
from stowage_airflow.page.access import may_refresh, may_see_recipes, may_see_trainings
from stowage_airflow.page.anatomy import take_apart
from stowage_airflow.page.artifacts import MANIFEST, RECIPE, Examined, find_manifest, read_recipe
from stowage_airflow.page.comparison import compare
from stowage_airflow.page.form import Form, prefill, read_form
from stowage_airflow.page.render import STATIC, digest_of, media_type, render, respond
from stowage_airflow.page.words import describe_gap


def page_tracker() -> Tracker:
    """MLflow, asked once more at most: somebody waits for the page."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    return open_tracker()


Store = Annotated[Tracker, Depends(page_tracker)]
MlflowUrl = Annotated[str, Depends(mlflow_uri)]
MaySeeTrainings = Annotated[bool, Depends(may_see_trainings)]
MayRefresh = Annotated[bool, Depends(may_refresh)]
RefreshForm = Annotated[Form, Depends(read_form)]

_LOOKUPS = ThreadPoolExecutor(8, "packing-page")
"""What a page needs of MLflow is asked for at the same time where it can be."""

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")
_STATUS: tuple[tuple[type[StowageError], int, str], ...] = (
    (RunNotFoundError, 404, "Not found"),
    (TrackingError, 503, "MLflow does not answer"),
    (VerificationError, 502, "Altered record"),
    (InputError, 502, "Unreadable record"),
    (UsageError, 400, "Not possible"),
)


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
    app.get("/")(list_recipes)
    app.get("/recipes/{recipe_id}")(show_recipe)
    app.get("/recipes/{recipe_id}/recipe.json")(download_recipe)
    app.get("/recipes/{recipe_id}/manifest.json")(download_manifest)
    app.get("/compare")(compare_recipes)
    app.get("/refresh")(show_form)
    app.get("/static/{digest}/{name}")(static_file)
    app.api_route("/{path:path}", methods=list(METHODS))(unknown_path)
    app.exception_handler(HTTPException)(_on_refusal)
    app.exception_handler(RequestValidationError)(_on_bad_request)
    app.exception_handler(StowageError)(_on_error)
    app.exception_handler(Exception)(_on_bug)
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
    found = records.list_records(tracker, destination.strip(), page)
    return render(
        request,
        "list.html",
        records=found.records,
        next_page=found.next_page,
        destination=destination.strip(),
        page=page,
        trainings=records.trainings_on(tracker, found.records) if may_see else None,
        mlflow_url=mlflow_url,
    )


def show_recipe(
    request: Request, tracker: Store, mlflow_url: MlflowUrl, may_see: MaySeeTrainings, recipe_id: str, run: str = ""
) -> Response:
    """One recipe."""
    trainings = _LOOKUPS.submit(records.trainings_of, tracker, recipe_id) if may_see else None
    every = records.find_records(tracker, recipe_id)
    record = records.choose_record(every, run)
    manifest = _LOOKUPS.submit(find_manifest, tracker, record)
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
        manifest=manifest.result(),
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
    content = tracker.read_artifact(record.run_id, path)
    name = f'attachment; filename="{kind}-{recipe_id[:12]}.json"'
    return respond(content, "application/json", headers={"Content-Disposition": name})


def compare_recipes(request: Request, tracker: Store, recipe: Annotated[list[str] | None, Query()] = None) -> Response:
    """Two recipes side by side."""
    if len(recipe or ()) != 2:
        raise UsageError(f"compare: expected two recipes, got {len(recipe or ())}; choose two in the list")
    chosen = [records.find_records(tracker, recipe_id)[0] for recipe_id in recipe or ()]
    # Older first, in whatever order they were chosen.
    left, right = sorted(chosen, key=lambda record: record.started)
    older, newer = read_recipe(tracker, left), read_recipe(tracker, right)
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


def unknown_path() -> Response:
    """Whatever else is asked for, once it is known who asks."""
    raise HTTPException(404)


_REFUSALS: Mapping[int, tuple[str, str]] = {
    401: ("Log in first", "Airflow does not know you, or no longer. Log in, then open this page again."),
    403: ("Not allowed", "You may not read the runs of the DAG refresh_packed_dataset. Ask who administers Airflow."),
    404: ("Not found", "There is no such page. Start from the list of recipes."),
}


def _on_refusal(request: Request, exc: HTTPException) -> Response:
    title, message = _REFUSALS.get(exc.status_code, ("Not possible", str(exc.detail)))
    return _error_page(request, exc.status_code, title, message, exc.headers)


def _on_bad_request(request: Request, exc: RequestValidationError) -> Response:
    where = "; ".join(f"{error['loc'][-1]}: {error['msg']}" for error in exc.errors())
    return _error_page(request, 400, "Not possible", f"The address of this page is not complete ({where}).")


def _on_error(request: Request, exc: StowageError) -> Response:
    status, title = next(((s, t) for kind, s, t in _STATUS if isinstance(exc, kind)), (500, "An error"))
    return _error_page(request, status, title, str(exc))


def _on_bug(request: Request, exc: Exception) -> Response:
    message = f"The page failed with {type(exc).__name__}. The log of Airflow's API server has the details."
    return _error_page(request, 500, "An error of this page", message)


def _error_page(
    request: Request, status: int, title: str, message: str, headers: Mapping[str, str] | None = None
) -> Response:
    return render(request, "error.html", status=status, headers=headers, title=title, message=message)
