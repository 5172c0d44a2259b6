"""What ends the reading reaches whoever takes the batches, in words of this project."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import tensorflow as tf

from packing.errors import InputError, StorageError, VerificationError
from packing.in_memory import MemoryStorage
from tests.training.batches import Dataset, ids, training
from tests.training.hanging import HangingStorage
from tests.training.packs import MODEL, SLOTS, VOCABULARY, raw_sequences, shard_bytes
from training.data import batch_errors, evaluation_batches, training_batches
from training.examples import open_examples
from training.shards import Cache

pytestmark = pytest.mark.slow

FIRST_SHARD = "/data/packed/part-00000.tfrecord"


def test_what_ends_the_reading_is_raised_as_it_was(storage: MemoryStorage, dataset: Dataset, cache: Cache) -> None:
    examples = open_examples(storage, dataset[0], cache)
    content = bytearray(storage.objects[FIRST_SHARD])
    content[100] ^= 1
    storage.objects[FIRST_SHARD] = bytes(content)
    with pytest.raises(VerificationError, match=f"{FIRST_SHARD}: expected .* SHA-256"), batch_errors([examples]):
        training(examples, 2, 1)
    del storage.objects[FIRST_SHARD]
    with pytest.raises(VerificationError, match=f"{FIRST_SHARD}: the manifest lists"), batch_errors([examples]):
        ids(evaluation_batches(examples, MODEL, batch_size=2))


def test_a_raw_shard_that_was_replaced_after_it_was_counted_is_named(
    storage: MemoryStorage, dataset: Dataset, cache: Cache
) -> None:
    examples = open_examples(storage, dataset[1], cache)
    for path in cache.folder.glob("*.tfrecord"):
        path.unlink()
    storage.objects["/data/raw/part-1"] = storage.objects["/data/raw/part-1"][::-1]
    with pytest.raises(InputError, match="/data/raw/part-1: expected ETag"), batch_errors([examples]):
        training(examples, 2, 1)


def test_batches_end_when_their_data_is_closed_though_the_store_hangs(
    dataset: Dataset, storage: MemoryStorage, cache: Cache
) -> None:
    hanging = HangingStorage(storage)
    examples = open_examples(hanging, dataset[0], cache)
    batches = iter(
        training_batches([examples], MODEL, mode="packed", batch_size=2, seed=0, start=0, shares=[0], replicas=1)
    )
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(lambda: next(batches, None))
        assert hanging.asked.wait(30)
        assert not waiting.done()
        examples.close()
        assert waiting.result(30) is None
    hanging.answer.set()


def test_a_process_ends_at_once_though_the_store_hangs(tmp_path: Path) -> None:
    program = [sys.executable, "-m", "tests.training.hanging", str(tmp_path)]
    done = subprocess.run(program, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout.strip()) == (42, "waiting"), done.stderr


def test_other_errors_pass(storage: MemoryStorage, dataset: Dataset, cache: Cache) -> None:
    examples = open_examples(storage, dataset[0], cache)
    with pytest.raises(StorageError, match="another"), batch_errors([examples]):
        raise StorageError("another")
    with pytest.raises(tf.errors.CancelledError), batch_errors([examples]):
        raise tf.errors.CancelledError(None, None, "cancelled")


def test_examples_of_another_form_are_refused(storage: MemoryStorage, cache: Cache) -> None:
    storage.objects["/data/raw/part-0"] = shard_bytes([*raw_sequences([5]), *raw_sequences([5], slots=SLOTS + 1)])
    examples = open_examples(storage, "/data/raw", cache)
    with (
        pytest.raises(
            InputError,
            match=r"^/data/raw: expected examples of input_ids\[32\].*: Key: segment_ids, Index: 1\. .* 33 but ",
        ),
        batch_errors([examples]),
    ):
        ids(evaluation_batches(examples, MODEL, batch_size=2))


def test_token_ids_beyond_the_vocabulary_are_refused(storage: MemoryStorage, dataset: Dataset, cache: Cache) -> None:
    examples = open_examples(storage, dataset[0], cache)
    small = replace(MODEL, vocab_size=VOCABULARY - 10)
    with (
        pytest.raises(
            InputError,
            match=f"{dataset[0]}: expected (input|masked_lm)_ids of 0 to 88 .vocab_size is 89; give --vocab-size",
        ),
        batch_errors([examples]),
    ):
        ids(evaluation_batches(examples, small, batch_size=2))


def test_replicas_of_one_process_name_the_data(tmp_path: Path) -> None:
    """On a process of its own, because TensorFlow's devices cannot be divided once it has started."""
    program = [sys.executable, "-m", "tests.training.refusing", str(tmp_path)]
    done = subprocess.run(program, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    messages = done.stdout.splitlines()
    assert len(messages) == 2
    for message in messages:
        assert message.startswith(
            "/data/raw: expected segment_ids of 0 and 1, found 9 at entry 0; `python -m packing scan"
        )
