"""What a page says when there is nothing to show: who may not see it, what is not there, what MLflow did not answer."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import NamedTuple

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from packing.errors import (
    InputError,
    RunNotFoundError,
    StowageError,
    TrackerAnswerError,
    TrackerAwayError,
    TrackerRefusedError,
    TrackingError,
    UsageError,
    VerificationError,
)
from stowage_airflow.connections import MLFLOW_CONNECTION
from stowage_airflow.page.patience import BusyError
from stowage_airflow.page.records import Record
from stowage_airflow.page.render import render

log = logging.getLogger(__name__)


class About(NamedTuple):
    """The record that an error is about, and the address of MLflow."""

    record: Record
    mlflow_url: str


class _Failure(NamedTuple):
    """What a page says of an error; without a `message` that of the error itself."""

    kind: type[StowageError]
    status: int
    title: str
    message: str = ""


# What MLflow and the libraries below it say may hold addresses with secrets in them, so it is for the log only.
_FAILURES = (
    _Failure(RunNotFoundError, 404, "Not found"),
    _Failure(BusyError, 503, "Busy"),
    _Failure(
        TrackerAwayError,
        503,
        "MLflow does not answer",
        f"MLflow does not answer. Try again in a few seconds; if it stays away, check the address in the connection "
        f"{MLFLOW_CONNECTION} and that MLflow runs. The log of Airflow's API server has the details.",
    ),
    _Failure(
        TrackerRefusedError,
        502,
        "MLflow refused the login",
        f"MLflow refused the login of {MLFLOW_CONNECTION}, or does not let it read this. Check login and password of "
        "that connection, and what MLflow permits them. The log of Airflow's API server has the details.",
    ),
    _Failure(
        TrackerAnswerError,
        502,
        "MLflow failed",
        f"What answers at the address in the connection {MLFLOW_CONNECTION} failed, or is not MLflow. Check that "
        "address and MLflow's log. The log of Airflow's API server has the details.",
    ),
    _Failure(TrackingError, 503, "MLflow cannot be asked"),
    _Failure(VerificationError, 502, "Altered record"),
    _Failure(InputError, 502, "Unreadable record"),
    _Failure(UsageError, 400, "Not possible"),
    _Failure(StowageError, 500, "An error"),
)


_REFUSALS: Mapping[int, tuple[str, str]] = {
    401: ("Log in first", "Airflow does not know you, or no longer. Log in, then open this page again."),
    403: ("Not allowed", "You may not read the runs of the DAG refresh_packed_dataset. Ask who administers Airflow."),
    404: ("Not found", "There is no such page. Start from the list of recipes."),
}


def answer_failures(app: FastAPI) -> None:
    """Give the application a page for each kind of error."""
    app.exception_handler(HTTPException)(_on_refusal)
    app.exception_handler(RequestValidationError)(_on_bad_request)
    app.exception_handler(StowageError)(_on_error)
    app.exception_handler(Exception)(_on_bug)


def _on_refusal(request: Request, exc: HTTPException) -> Response:
    title, message = _REFUSALS.get(exc.status_code, ("Not possible", str(exc.detail)))
    return _error_page(request, exc.status_code, title, message, exc.headers)


def _on_bad_request(request: Request, exc: RequestValidationError) -> Response:
    where = "; ".join(f"{error['loc'][-1]}: {error['msg']}" for error in exc.errors())
    return _error_page(request, 400, "Not possible", f"The address of this page is not complete ({where}).")


def _on_error(request: Request, exc: StowageError) -> Response:
    failure = next(failure for failure in _FAILURES if isinstance(exc, failure.kind))
    if failure.message:
        log.warning("%s: %s", request.url.path, exc)
    return _error_page(request, failure.status, failure.title, failure.message or str(exc))


def _on_bug(request: Request, exc: Exception) -> Response:
    message = f"The page failed with {type(exc).__name__}. The log of Airflow's API server has the details."
    return _error_page(request, 500, "An error of this page", message)


def _error_page(
    request: Request, status: int, title: str, message: str, headers: Mapping[str, str] | None = None
) -> Response:
    values = {"title": title, "message": message, "about": getattr(request.state, "about", None)}
    # What is not found is what would be downloaded.
    return render(request, "error.html", status=status, headers=headers, downloads=status != 404, **values)
