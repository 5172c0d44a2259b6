"""`python -m packing`; Ctrl-C and SIGTERM end it with the shell's statuses, 130 and 143, at any moment."""

from __future__ import annotations

import gc
import signal
import sys
from types import FrameType

# Worker processes import this module first, too. At Python's own 700, a fifth of each start goes into looking for
# garbage among what is being imported.
gc.set_threshold(100_000)


def _terminate(number: int, _: FrameType | None) -> None:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _terminate)
    try:
        from packing.cli import main

        sys.exit(main())
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(130)
