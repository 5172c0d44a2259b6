"""What is made of the objects of a cluster, where its order of events does not show it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.launchers.cluster import INDEX

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("cluster")]  # importing Airflow takes seconds


def event(uid: str, reason: str, kind: str = "Normal", **time: Any) -> dict[str, Any]:
    return {"involvedObject": {"uid": uid}, "reason": reason, "message": "", "type": kind, **time}


@pytest.mark.parametrize(
    ("times", "last"),
    [
        (({"lastTimestamp": "2026-01-01T00:00:02Z"}, {"lastTimestamp": "2026-01-01T00:00:01Z"}), "first"),
        (({"lastTimestamp": "2026-01-01T00:00:02Z"}, {"eventTime": "2026-01-01T00:00:03.000001Z"}), "second"),
        (({"eventTime": "2026-01-01T00:00:02.9Z"}, {"lastTimestamp": "2026-01-01T00:00:02Z"}), "first"),
        (
            (
                {"eventTime": "2026-01-01T00:00:01Z", "series": {"lastObservedTime": "2026-01-01T00:00:09Z"}},
                {"eventTime": "2026-01-01T00:00:05Z"},
            ),
            "first",
        ),
        (({"eventTime": None, "lastTimestamp": None}, {"lastTimestamp": "2026-01-01T00:00:02Z"}), "second"),
    ],
)
def test_the_last_event_counts_and_of_one_second_a_warning(times: tuple[Any, Any], last: str) -> None:
    from stowage_airflow.observe import latest

    events = [event("a", "first", "Warning", **times[0]), event("a", "second", **times[1]), event("b", "other")]
    for given in (events, events[::-1]):
        assert {found["reason"] for found in latest(given)} == {last, "other"}


def test_only_pods_that_may_still_start_are_asked_why_they_do_not() -> None:
    from stowage_airflow.observe import starting

    def pod(index: int, phase: str, **metadata: str) -> dict[str, Any]:
        return {"metadata": {"annotations": {INDEX: str(index)}, **metadata}, "status": {"phase": phase}}

    waiting = pod(1, "Pending")
    others = [pod(0, "Pending"), pod(1, "Failed"), pod(1, "Pending", deletionTimestamp="2026-01-02T00:00:00Z")]
    assert starting([*others, waiting], [1, 2]) == [waiting]
