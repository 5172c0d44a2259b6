"""Where TensorFlow computes: its environment, its threads and its distribution strategies by name."""

from __future__ import annotations

import os
from typing import Any


def configure_tensorflow(threads: int | None = None) -> None:
    """Set TensorFlow's log level and threads in the environment; call once, before anything imports it.

    `threads` defaults to the CPUs that this process may use, which is what one operation can spread over; two
    operations run side by side. What the user has set in the environment stays.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", str(threads or len(os.sched_getaffinity(0))))
    os.environ.setdefault("TF_NUM_INTEROP_THREADS", "2")


def open_strategy(name: str) -> Any:
    """The `tf.distribute.Strategy` called `name`: `cpu` (one device) or `mirrored` (all GPUs of this machine)."""
    import tensorflow as tf

    if name == "cpu":
        return tf.distribute.OneDeviceStrategy("/cpu:0")
    return tf.distribute.MirroredStrategy()
