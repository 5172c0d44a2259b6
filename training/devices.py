"""Where TensorFlow computes: its environment, its distribution strategies by name, and this process's part in them."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any

from packing.errors import UsageError


@dataclass(frozen=True)
class Worker:
    """This process among the workers of TF_CONFIG; without one, it is the only one."""

    index: int = 0
    count: int = 1

    @property
    def is_chief(self) -> bool:
        """Whether this is the worker that saves, tracks and reports."""
        return self.index == 0


def configure_tensorflow(threads: int | None = None) -> None:
    """Set TensorFlow's log level and threads in the environment; call once, before anything imports it.

    `threads` defaults to the CPUs that this process may use, which is what one operation can spread over; two
    operations run side by side. What the user has set in the environment stays.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", str(threads or len(os.sched_getaffinity(0))))
    os.environ.setdefault("TF_NUM_INTEROP_THREADS", "2")


def this_worker(strategy: str) -> Worker:
    """Read TF_CONFIG, which only the strategy "multi-worker" follows (and "hpu", where it is set)."""
    text = os.environ.get("TF_CONFIG", "")
    if strategy == "multi-worker" and not text:
        raise UsageError("strategy multi-worker: expected TF_CONFIG in the environment, found none")
    if strategy not in ("multi-worker", "hpu") or not text:
        return Worker()
    try:
        document = json.loads(text)
        workers, task = document["cluster"]["worker"], document["task"]
        kind, index = task["type"], int(task["index"])
    except (ValueError, KeyError, TypeError) as exc:
        raise UsageError(f"TF_CONFIG: expected a cluster of workers and a task of it, found {text!r}") from exc
    if not isinstance(workers, list) or not all(isinstance(address, str) for address in workers):
        raise UsageError(f"TF_CONFIG: expected the workers as a list of HOST:PORT, found {workers!r}")
    if kind != "worker" or not 0 <= index < len(workers) or set(document["cluster"]) != {"worker"}:
        raise UsageError(f"TF_CONFIG: expected a task of type worker below {len(workers)}, found {kind!r} {index}")
    return Worker(index, len(workers))


def open_strategy(name: str, *, deterministic: bool = False) -> Any:
    """The `tf.distribute.Strategy` called `name`; call it before any other operation of TensorFlow.

    `cpu`: one device; `mirrored`: all GPUs of this machine; `multi-worker`: all machines of TF_CONFIG; `hpu`: Gaudi
    cards. With `deterministic`, operations that would add in any order use their slower, ordered forms.
    """
    if name == "hpu":
        _load_gaudi()
    import tensorflow as tf

    if deterministic:
        tf.config.experimental.enable_op_determinism()
    if name == "cpu":
        return tf.distribute.OneDeviceStrategy("/cpu:0")
    if name == "mirrored":
        return tf.distribute.MirroredStrategy()
    if name == "hpu":
        from habana_frameworks.tensorflow.distribute import HPUStrategy

        return HPUStrategy()
    return tf.distribute.MultiWorkerMirroredStrategy()


def local_replicas(strategy: Any, worker: Worker) -> list[int]:
    """The numbers of the replicas that this worker computes, out of `strategy.num_replicas_in_sync`."""
    here = strategy.num_replicas_in_sync // worker.count
    return list(range(worker.index * here, (worker.index + 1) * here))


def device_name(strategy: Any) -> str:
    """What the strategy's first local device calls itself, such as "NVIDIA H100 80GB HBM3"; "CPU" for a CPU."""
    import tensorflow as tf

    kind = strategy.extended.worker_devices[0].split(":")[-2]
    for device in tf.config.list_physical_devices(kind):
        details = tf.config.experimental.get_device_details(device)
        return str(details.get("device_name", kind))
    return str(kind)


def _load_gaudi() -> None:
    """Load Habana's module with the settings of its BERT (release 1.14.0), which must stand before any operation."""
    for variable, value in {
        "TF_USE_CLUSTER_OP": "false",
        "TF_EXPERIMENTAL_BATCH_VARIABLES": "true",
        "TF_CLUSTER_VARIABLES": "true",
    }.items():
        os.environ.setdefault(variable, value)
    try:
        from habana_frameworks.tensorflow import load_habana_module
    except ImportError as exc:
        raise UsageError(f"strategy hpu: needs a Gaudi image with Habana's TensorFlow ({exc})") from exc
    load_habana_module()
