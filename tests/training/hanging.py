"""A store that never answers, and a process that ends while its input waits for one. Run by a test."""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path
from threading import Event

from packing.in_memory import MemoryStorage


class HangingStorage(MemoryStorage):
    """The objects of `storage`, of which the second packed shard only comes after `answer`."""

    def __init__(self, storage: MemoryStorage) -> None:
        super().__init__()
        self.objects = storage.objects
        self.asked, self.answer = Event(), Event()

    def read(self, uri: str, *, start: int = 0, size: int | None = None, etag: str | None = None) -> bytes:
        if uri.endswith("/packed/part-00001.tfrecord"):
            self.asked.set()
            self.answer.wait()
        return super().read(uri, start=start, size=size, etag=etag)


def main() -> None:
    """Read the first of two windows, so that TensorFlow's own prefetching waits for the second one."""
    from tests.training.packs import MODEL, write_dataset
    from training.data import evaluation_batches
    from training.examples import open_examples
    from training.shards import Cache

    storage = HangingStorage(MemoryStorage())
    examples = open_examples(storage, write_dataset(storage, "/data")[0], Cache(Path(sys.argv[1]), 12000))
    with closing(examples):
        batches = iter(evaluation_batches(examples, MODEL, batch_size=1))
        for _ in range(examples.shards[0].examples):
            next(batches)
        storage.asked.wait()
        sys.stdout.write("waiting\n")
        sys.exit(42)


if __name__ == "__main__":
    main()
