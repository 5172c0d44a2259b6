"""What training fails with, beside the errors of `packing.errors`."""

from __future__ import annotations

from packing.errors import StowageError


class DivergedError(StowageError):
    """The loss, its gradient or the weights are no longer numbers; a retry on the same data fails in the same way."""

    exit_status = 3


def reason(message: str) -> str:
    """What TensorFlow says of a failed operation, without the trace of the code that made it."""
    noise = (" ", "\t", "Graph execution error", "Detected at node")
    return " ".join(line for line in message.splitlines() if line and not line.startswith(noise))
