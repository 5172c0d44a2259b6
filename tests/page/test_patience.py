"""MLflow may hang without anybody else waiting for it, and its failures are named without their details."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from packing.adapters import open_tracker
from packing.ports import FoundRuns
from stowage_airflow.page.app import page_tracker
from stowage_airflow.page.patience import TURNS, BusyError, Gate
from tests.page.opened import Page, open_page
from tests.page.test_errors import Away

THREADS = 40
"""On which Starlette answers all routes that are no coroutines."""


@contextmanager
def silent_server() -> Iterator[str]:
    """A server that takes every connection and says nothing until the end."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@pytest.mark.slow
def test_who_asks_airflow_for_something_else_does_not_wait_for_mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "600")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with silent_server() as url:
        page = open_page(open_tracker(url))
        page.app.state.gate = Gate(patience=0)
        outer = FastAPI()
        outer.mount("/stowage", page.app)
        outer.get("/version")(lambda: "3.3")
        assert asyncio.run(asyncio.wait_for(_ask_for_both(outer), 60)) == "3.3"


async def _ask_for_both(outer: FastAPI) -> str:
    """What a route of Airflow's says while as many pages as may wait for MLflow; the others are refused."""
    transport = httpx.ASGITransport(outer, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://airflow", timeout=600) as client:
        asked = [asyncio.create_task(client.get("/stowage/")) for _ in range(THREADS + TURNS)]
        while sum(task.done() for task in asked) < THREADS:
            await asyncio.sleep(0.01)
        version = await client.get("/version")
        done = [task.result() for task in asked if task.done()]
        assert len(done) == THREADS
        for answer in done:
            assert (answer.status_code, "Too many pages ask MLflow" in answer.text) == (503, True)
        for task in asked:
            task.cancel()
        return str(version.json())


class Silent(Away):
    """Counts how often it was asked in vain."""

    asked = 0

    def find_runs(self, *args: Any, **options: Any) -> FoundRuns:
        self.asked += 1
        return super().find_runs(*args, **options)


def test_a_silence_is_not_waited_for_twice() -> None:
    tracker = Silent()
    page = open_page(tracker)
    page.app.state.gate = Gate(rest=3600)
    for _ in range(3):
        assert "MLflow does not answer" in page.get("/", 503).alert()
    assert tracker.asked == 1
    page.get("/refresh")
    page.app.state.gate = Gate(rest=0)
    page.get("/", 503)
    page.get("/", 503)
    assert tracker.asked == 3


def test_a_turn_that_ends_is_the_next_ones() -> None:
    async def take_turns() -> None:
        gate = Gate(turns=1, patience=60)
        order: list[int] = []

        async def one(number: int) -> None:
            async with gate.turn():
                order.append(number)
                await asyncio.sleep(0)

        await asyncio.gather(*(one(number) for number in range(3)))
        assert sorted(order) == [0, 1, 2]
        impatient = Gate(turns=1, patience=0)
        async with impatient.turn():
            with pytest.raises(BusyError, match="Too many"):
                async with impatient.turn():
                    pass
        async with impatient.turn():
            pass

    asyncio.run(take_turns())


def test_the_form_without_a_recipe_needs_no_mlflow() -> None:
    page = open_page(Away())
    page.app.state.gate = Gate(turns=1, rest=3600)
    page.get("/", 503)
    page.get("/refresh")
    page.get(f"/refresh?recipe={'a' * 64}", 503)


@pytest.mark.slow
def test_the_page_asks_once_and_for_five_seconds_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.environment_variables import MLFLOW_HTTP_REQUEST_MAX_RETRIES, MLFLOW_HTTP_REQUEST_TIMEOUT

    monkeypatch.setenv("AIRFLOW_CONN_MLFLOW_DEFAULT", json.dumps({"conn_type": "http", "host": "m", "port": 5000}))
    for name in ("MLFLOW_HTTP_REQUEST_TIMEOUT", "MLFLOW_HTTP_REQUEST_MAX_RETRIES"):
        monkeypatch.setenv(name, "1")  # so that it is set back at the end
        monkeypatch.delenv(name)
    page_tracker()
    assert (MLFLOW_HTTP_REQUEST_TIMEOUT.get(), MLFLOW_HTTP_REQUEST_MAX_RETRIES.get()) == (5, 0)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
    page_tracker()
    assert MLFLOW_HTTP_REQUEST_TIMEOUT.get() == 60


@contextmanager
def answering(status: int, body: str, location: str = "") -> Iterator[Page]:
    """The page on a server that says the same to everything, the page of its `location` included."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            moved = location if "login" not in self.path else ""
            self.send_response(302 if moved else status)
            if moved:
                self.send_header("Location", moved)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        do_POST = do_GET  # noqa: N815 - the name is http.server's

        def log_message(self, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    try:
        yield open_page(open_tracker(f"http://127.0.0.1:{server.server_port}"))
    finally:
        server.shutdown()
        serving.join()
        server.server_close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("status", "body", "location", "said"),
    [
        (401, "a secret", "", "MLflow refused the login of mlflow_default"),
        (403, "a secret", "", "MLflow refused the login of mlflow_default"),
        (403, '{"error_code": "PERMISSION_DENIED", "message": "a secret"}', "", "MLflow refused the login"),
        (200, "<html>a secret</html>", "", "is not MLflow"),
        (200, "<html>a secret</html>", "/login?token=secret", "is not MLflow"),
        (500, "a secret", "", "MLflow's log"),
        (503, '{"error_code": "TEMPORARILY_UNAVAILABLE", "message": "a secret"}', "", "MLflow's log"),
    ],
)
def test_what_mlflow_says_instead_of_an_answer_is_for_the_log(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    status: int,
    body: str,
    location: str,
    said: str,
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with answering(status, body, location) as page:
        parsed = page.get("/", 502)
        page.get(f"/recipes/{'a' * 64}", 502)
    assert said in parsed.alert()
    assert not [word for word in ("secret", "HTTPConnection", "127.0.0.1") if word in parsed.said()]
    assert "MLflow failed" in caplog.text
