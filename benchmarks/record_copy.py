"""TensorFlow's own writer at its easiest: copying the ready payloads of TFRecord files from memory into a file.

    python -m benchmarks.record_copy FOLDER OUT

Prints a JSON object; importing TensorFlow is not counted.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from packing.tfrecord import read_records


def main() -> None:
    """Read all, then time the writing."""
    folder, out = sys.argv[1:]
    payloads = [
        payload
        for path in sorted(Path(folder).rglob("*.tfrecord"))
        for _, payload in read_records(path.read_bytes(), path.name)
    ]
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import tensorflow as tf

    started = time.perf_counter()
    with tf.io.TFRecordWriter(out) as writer:
        for payload in payloads:
            writer.write(payload)
    seconds = time.perf_counter() - started
    sys.stdout.write(json.dumps({"records": len(payloads), "seconds": seconds}) + "\n")


if __name__ == "__main__":
    main()
