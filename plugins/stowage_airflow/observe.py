"""What a run's Job, pods and events say: pure functions over the objects as the API server gives them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from training.launchers.kubernetes import CONTAINER, Manifest
from training.launchers.local import blame

COMPLETION_INDEX = "batch.kubernetes.io/job-completion-index"

_LONGEST_REASON = 600


@dataclass(frozen=True)
class Failure:
    """How worker `index` failed; `status` is None if its container never ran or its node took it along."""

    index: int
    status: int | None
    reason: str

    def __str__(self) -> str:
        """Of one line."""
        status = "" if self.status is None else f" ended with status {self.status}"
        reason = f" ({self.reason})" if self.reason not in ("", "Error") else ""
        return f"worker {self.index}{status}{reason}"


def condition(job: Manifest) -> Mapping[str, Any] | None:
    """The condition "Complete" or "Failed" of a Job that has ended; None before."""
    found = (job.get("status") or {}).get("conditions") or []
    return next((c for c in found if c["type"] in ("Complete", "Failed") and c["status"] == "True"), None)


def is_ending(job: Manifest) -> bool:
    """Whether it is decided how it ends; its pods may take their grace before it has ended."""
    found = (job.get("status") or {}).get("conditions") or []
    return any(c["type"] in ("FailureTarget", "SuccessCriteriaMet") and c["status"] == "True" for c in found)


def is_deleted(job: Manifest) -> bool:
    """Whether somebody has deleted it; it stays until its pods have ended."""
    return "deletionTimestamp" in job["metadata"]


def workers_down(pods: Iterable[Manifest], workers: int) -> list[int]:
    """The workers that neither run nor are done."""
    up = {worker(pod) for pod in pods if pod["status"].get("phase") in ("Running", "Succeeded") and not is_deleted(pod)}
    return [index for index in range(workers) if index not in up]


def worker(pod: Manifest) -> int:
    """The number of the worker that a pod is."""
    return int(pod["metadata"]["annotations"][COMPLETION_INDEX])


def chiefs(pods: Iterable[Manifest]) -> list[Manifest]:
    """The pods of worker 0 that have had a container, the oldest first."""
    found = [pod for pod in pods if worker(pod) == 0 and _state(pod, "running", "terminated") is not None]
    return sorted(found, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))


def worst_failure(pods: Iterable[Manifest]) -> tuple[Manifest, Failure] | None:
    """The failed pod that explains a failed Job: one that no retry helps, else one that did not just lose its peers."""
    failed = [(pod, _failure(pod)) for pod in pods if pod["status"].get("phase") == "Failed"]
    return min(failed, key=lambda found: blame(found[1].status), default=None)


def _failure(pod: Manifest) -> Failure:
    state = _state(pod, "terminated") or {}
    whole = " ".join(filter(None, [pod["status"].get("reason"), pod["status"].get("message")]))
    return Failure(worker(pod), state.get("exitCode"), whole or state.get("reason", ""))


def _state(pod: Manifest, *kinds: str) -> dict[str, Any] | None:
    """The state of its container that trains, if it is one of `kinds`."""
    for status in pod["status"].get("containerStatuses") or []:
        state = status.get("state") or {}
        for kind in kinds:
            if status["name"] == CONTAINER and kind in state:
                return dict(state[kind])
    return None


def starting(pods: Iterable[Manifest], down: Sequence[int]) -> list[Manifest]:
    """The pods of workers that are down that may still run; a pod whose node is lost is not one of them."""
    return [
        pod for pod in pods if worker(pod) in down and pod["status"].get("phase") == "Pending" and not is_deleted(pod)
    ]


def complaints(pods: Iterable[Manifest]) -> str:
    """Why pods do not run, in the API server's own words and one line; empty if it has said nothing."""
    return _distinct(f"worker {worker(pod)}: {text}" for pod in pods for text in _complaints(pod))


def latest(events: Iterable[Manifest]) -> list[Manifest]:
    """The last event of each object, as what was wrong before it may be no more; of one second, a warning."""
    last: dict[str, Manifest] = {}
    for event in sorted(events, key=lambda event: (_second(event), is_warning(event))):
        last[event["involvedObject"]["uid"]] = event
    return list(last.values())


def _second(event: Manifest) -> str:
    """When it was last seen; components differ in where they say so, and in how exactly."""
    times = [(event.get("series") or {}).get("lastObservedTime"), event.get("lastTimestamp"), event.get("eventTime")]
    return next((time[: len("2026-01-01T00:00:00")] for time in times if time), "")


def is_warning(event: Manifest) -> bool:
    """Whether something has gone wrong."""
    return event.get("type") == "Warning"


def said(events: Iterable[Manifest]) -> str:
    """What has happened, in one line."""
    return _distinct(map(_sentence, events))


def _distinct(said: Iterable[str]) -> str:
    text = "; ".join(dict.fromkeys(said))
    return text if len(text) <= _LONGEST_REASON else text[:_LONGEST_REASON] + " ..."


def _complaints(pod: Manifest) -> list[str]:
    """What a pod waits for: to be placed on a node, or for its image, secrets and volumes."""
    unmet = [c for c in pod["status"].get("conditions") or [] if c["type"] == "PodScheduled" and c["status"] == "False"]
    waiting = _state(pod, "waiting") or {}
    return [_sentence(found) for found in (*unmet, waiting) if found.get("message")]


def _sentence(found: Mapping[str, Any]) -> str:
    return one_line(f"{found.get('reason', '')}: {found.get('message', '')}")


def one_line(text: str) -> str:
    """`text` with its line breaks and indents as single blanks."""
    return " ".join(text.split())


def last_words(texts: Sequence[str]) -> str:
    """Of what a failed run has printed, the error that it names, or else its last line."""
    errors = [text for text in texts if text.startswith("error: ")]
    return (errors or [text for text in texts if text] or ["it left no log"])[-1]


def result(line: str) -> dict[str, Any]:
    """The figures that a run prints at its end; none if the line is another."""
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


class Tail:
    """Follows a log that is read in overlapping pieces: lines of `TIMESTAMP TEXT`, in order, from some time on."""

    def __init__(self) -> None:
        self._stamp, self._seen = "", 0

    def add(self, lines: Iterable[str]) -> list[str]:
        """The texts of the lines that no earlier piece has had; several may have the same time."""
        fresh, seen = [], 0
        for line in lines:
            stamp, _, text = line.partition(" ")
            if stamp < self._stamp:
                continue
            seen = seen + 1 if stamp == self._stamp else 1
            if stamp == self._stamp and seen <= self._seen:
                continue
            self._stamp, self._seen = stamp, seen
            fresh.append(text)
        return fresh
