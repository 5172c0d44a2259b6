"""The way of metrics from the training loop to the tracker: a queue, a file on this machine, the server."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from packing.errors import TrackingError
from packing.ports import Metric, Run
from training.spool import Spool

BATCH_METRICS = 1000
"""What MLflow takes in one request."""
SEND_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 60.0
SAMPLE_SECONDS = 10.0
CLOSE_SECONDS = 60.0

logger = logging.getLogger(__name__)


class MetricSender:
    """Takes metrics to a tracked run without holding up training, and loses none.

    One thread writes what `add` is given to a spool, which survives this process; another sends from there, again and
    again while the server is away. What an earlier process of the run left in the spool goes first. A run without an
    id is recorded nowhere, so nothing is kept for it.
    """

    def __init__(self, run: Run, folder: Path, sample: Callable[[], Mapping[str, float]] | None = None) -> None:
        """`folder`, on this machine, holds a spool for each run; `sample` gives further metrics every 10 s.

        Raises StorageError if the spool cannot be made, UsageError if another process has it.
        """
        self.run = run
        self._queue: SimpleQueue[list[Metric] | threading.Event | None] = SimpleQueue()
        self._step = 0
        self._closing, self._given_up = threading.Event(), threading.Event()
        self._failure: Exception | None = None
        self._outage: str | None = None
        self._spool = Spool(folder / f"{run.run_id}.jsonl") if run.run_id else None
        if self._spool:
            self._writer = _start(self._write_all, self._spool, sample)
            self._sender = _start(self._send_all, self._spool)

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Have these values recorded; raises TrackingError if earlier ones could not be kept."""
        if self._spool:
            self._check()
            self._step = step
            self._queue.put(_metrics(step, values))

    def flush(self) -> None:
        """Wait until all that was added is in the spool; raises TrackingError if it cannot be.

        To be called before a checkpoint: a killed run goes on behind it, and takes no step before it again.
        """
        if self._spool:
            kept = threading.Event()
            self._queue.put(kept)
            while not kept.wait(0.1):
                self._check()

    def close(self, seconds: float = CLOSE_SECONDS) -> None:
        """Send what is left within `seconds`; raises TrackingError, and keeps it, if the server does not take it."""
        if not self._spool:
            return
        self._queue.put(None)
        self._writer.join()
        self._closing.set()
        self._sender.join(seconds)
        self._given_up.set()
        left = not self._spool.empty
        self._spool.close()
        if self._failure:
            raise TrackingError(f"run {self.run.run_id}: metrics are missing: {self._failure}") from self._failure
        if left:
            raise TrackingError(
                f"run {self.run.run_id}: not all metrics were taken within {seconds:.0f} s "
                f"({self._outage or 'the tracking server is slow'}); the rest is kept in {self._spool.path}: run the "
                "same command again to send it"
            )

    def forget(self) -> None:
        """After `close` and the end of the run: leave no spool, which would be that of a run still to be ended."""
        if self._spool:
            self._spool.remove()

    def _check(self) -> None:
        if not self._writer.is_alive():
            raise TrackingError(
                f"run {self.run.run_id}: metrics are no longer recorded: {self._failure or 'the sender is closed'}"
            ) from self._failure

    def _write_all(self, spool: Spool, sample: Callable[[], Mapping[str, float]] | None) -> None:
        """The first thread: from the queue to the spool, and a sample where one is due."""
        due = time.monotonic() + SAMPLE_SECONDS
        try:
            while True:
                try:
                    item = self._queue.get(timeout=max(0.0, due - time.monotonic()) if sample else None)
                except Empty:
                    due = time.monotonic() + SAMPLE_SECONDS
                    item = _metrics(self._step, sample() if sample else {})
                if item is None:
                    return
                if isinstance(item, threading.Event):
                    item.set()
                else:
                    spool.add(item)
        except Exception as exc:  # noqa: BLE001 - the training thread raises it with whatever it does next
            self._failure = exc

    def _send_all(self, spool: Spool) -> None:
        """The second thread: from the spool to the server, until nothing is left and nothing more can come."""
        pause = SEND_SECONDS
        while not self._given_up.is_set():
            last = self._closing.is_set()
            try:
                batch, end = spool.take(BATCH_METRICS)
                if batch:
                    self.run.log_metrics(batch)
                spool.delivered(end)
            except Exception as exc:  # noqa: BLE001 - whatever it is, the metrics are kept and go later
                self._note_outage(f"{type(exc).__name__}: {exc}")
                self._wait(pause)
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
                continue
            self._note_outage(None)
            pause = SEND_SECONDS
            if last and spool.empty:
                return
            if len(batch) < BATCH_METRICS:
                self._closing.wait(SEND_SECONDS)

    def _note_outage(self, reason: str | None) -> None:
        if reason and not self._outage:
            logger.warning("run %s: metrics are not taken, and kept until they are: %s", self.run.run_id, reason)
        if self._outage and not reason:
            logger.warning("run %s: metrics are taken again", self.run.run_id)
        self._outage = reason

    def _wait(self, pause: float) -> None:
        """Before the next attempt; a close ends a long wait, and has only short ones after it."""
        if self._closing.is_set():
            self._given_up.wait(SEND_SECONDS)
        else:
            self._closing.wait(pause)


def _metrics(step: int, values: Mapping[str, float]) -> list[Metric]:
    now = time.time_ns() // 1_000_000
    return [Metric(key, float(value), step, now) for key, value in values.items()]


def _start(target: Callable[..., None], *arguments: Any) -> threading.Thread:
    """A thread that does not keep a process alive whose main thread is done."""
    thread = threading.Thread(target=target, args=arguments, name="metrics", daemon=True)
    thread.start()
    return thread
