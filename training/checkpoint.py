"""Checkpoints in the model folder: weights, optimizer slots and exact position; complete or not there, the last N kept.

    checkpoints/00000012/state.index, state.data-00000-of-00001    what TensorFlow wrote after step 12
    checkpoints/00000012.json                                      their sizes and digests, stored last

A checkpoint exists when its document does, and is removed document first, so that whatever breaks off a save leaves the
one before as the latest. Plain TensorFlow reads `checkpoints/00000012/state` of a local model folder.
"""

from __future__ import annotations

import json
import logging
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryDirectory
from typing import Any

import tensorflow as tf

from packing.errors import InputError, StorageError, UsageError, VerificationError
from packing.jsonio import pretty
from packing.ports import Storage
from training.files import StoredFile, fetch_file, store_files
from training.model import Bert
from training.step import TrainingState

FORMAT = 2
PREFIX = "state"
_TEMPORARY = "checkpoint-"
_NAME = re.compile(r"(\d{8,})(\.json|/[^/]+)")

logger = logging.getLogger(__name__)


class Checkpoints:
    """Saves and restores one run's state below the model folder, a URI.

    Whatever `state.model`, `state.optimizer` and `state.progress` track is saved. `scratch` is a local folder that no
    other process uses, with room for one checkpoint; nothing of it is left there.
    """

    def __init__(self, storage: Storage, folder: str, state: TrainingState, *, keep: int, scratch: Path) -> None:
        self._storage, self._folder, self._keep, self._scratch = storage, _below(folder), keep, scratch
        self._steps = state.progress.steps
        self._state = tf.train.Checkpoint(model=state.model, optimizer=state.optimizer, progress=state.progress)
        for abandoned in scratch.glob(f"{_TEMPORARY}*"):
            rmtree(abandoned, ignore_errors=True)

    def latest(self) -> str | None:
        """The URI of the latest checkpoint's document, or None if there is no checkpoint."""
        return _survey(self._storage, self._folder).latest

    def restore_latest(self) -> bool:
        """Continue from the latest checkpoint, if there is one; raises VerificationError if it is damaged."""
        document = self.latest()
        if document is None:
            return False
        with _fetched(self._storage, document, self._scratch) as prefix:
            _restore(self._state, prefix, document)
        return True

    def save(self) -> str:
        """Save under the number of steps done, unless that is saved already; the URI of the checkpoint's document.

        Then old checkpoints, and what is left of saves that were broken off, are removed. Only one process of a run
        saves.
        """
        step, found = int(self._steps.numpy()), _survey(self._storage, self._folder)
        newest = max(found.documents, default=-1)
        if newest > step:
            raise UsageError(
                f"{found.documents[newest]}: expected no checkpoint after step {step}, which is to be saved; another "
                "process trains in this model folder: end it, or use another --model-dir"
            )
        if newest == step:
            return found.documents[step]
        document = f"{self._folder}/{step:08d}.json"
        with _temporary_folder(self._scratch) as local:
            self._write(local / PREFIX)
            files = store_files(self._storage, local, f"{self._folder}/{step:08d}")
        content = {"format": FORMAT, "step": step, "files": [asdict(file) for file in files]}
        self._storage.write(document, pretty(content))
        self._tidy(found, step)
        return document

    def _write(self, prefix: Path) -> None:
        try:
            self._state.write(str(prefix))
        except tf.errors.OpError as exc:
            raise StorageError(f"{prefix}: cannot be written ({exc.message}); free space on that disk") from exc

    def _tidy(self, found: Survey, saved: int) -> None:
        """Remove what is neither `saved` nor one of the checkpoints to keep; if the store refuses, training goes on."""
        kept = sorted({*found.documents, saved})[-self._keep :]
        documents = [uri for step, uri in found.documents.items() if step not in kept]
        files = [uri for step, uris in found.files.items() if step not in kept for uri in uris]
        try:
            for uri in (*documents, *files):
                self._storage.delete(uri)
        except StorageError as exc:
            logger.warning("an old checkpoint is left: %s", exc)


def restore_weights(storage: Storage, model: Bert, folder: str) -> None:
    """Load the weights of the latest checkpoint in the model folder; raises UsageError if there is none."""
    document = _survey(storage, _below(folder)).latest
    if document is None:
        raise UsageError(f"{folder}: expected a checkpoint, found none; give the --model-dir of a training run")
    with _fetched(storage, document, None) as prefix:
        _restore(tf.train.Checkpoint(model=model), prefix, document)


def _below(folder: str) -> str:
    return f"{folder.rstrip('/')}/checkpoints"


@dataclass(frozen=True)
class Survey:
    """What the store holds: URIs of documents by step, and of files by the step that they belong to."""

    documents: Mapping[int, str]
    files: Mapping[int, list[str]]

    @property
    def latest(self) -> str | None:
        return self.documents[max(self.documents)] if self.documents else None


def _survey(storage: Storage, folder: str) -> Survey:
    documents, files = {}, defaultdict(list)
    for info in storage.list(folder):
        name = _NAME.fullmatch(info.uri[len(folder) + 1 :])
        if name and name[2] == ".json":
            documents[int(name[1])] = info.uri
        elif name:
            files[int(name[1])].append(info.uri)
    return Survey(documents, files)


@contextmanager
def _fetched(storage: Storage, document: str, scratch: Path | None) -> Iterator[str]:
    """A local copy of a checkpoint's files, checked, for as long as the context lasts; gives TensorFlow's prefix."""
    advice = f"delete {document} to go on from the checkpoint before it"
    with _temporary_folder(scratch) as local:
        for file in _read_document(storage, document, advice):
            try:
                fetch_file(storage, f"{document.removesuffix('.json')}/{file.name}", file, local / file.name)
            except VerificationError as exc:
                raise VerificationError(f"{exc}; the checkpoint is damaged, {advice}") from exc
        yield str(local / PREFIX)


def _read_document(storage: Storage, uri: str, advice: str) -> list[StoredFile]:
    try:
        document: Any = json.loads(storage.read(uri))
        written, files = document["format"], [StoredFile(**file) for file in document["files"]]
    except (ValueError, KeyError, TypeError, RecursionError) as exc:
        raise VerificationError(f"{uri}: expected a checkpoint's document, found none ({exc!r}); {advice}") from exc
    if written != FORMAT:
        raise InputError(f"{uri}: expected format {FORMAT}, found {written!r}; use the version that wrote it")
    if strange := [file.name for file in files if not re.fullmatch(rf"{PREFIX}\.[\w.-]+", str(file.name))]:
        raise VerificationError(f"{uri}: expected files named {PREFIX}.*, found {strange[0]!r}; {advice}")
    return files


def _restore(checkpoint: Any, prefix: str, document: str) -> None:
    """Give every variable that `checkpoint` tracks its saved value."""
    try:
        checkpoint.read(prefix).expect_partial().assert_existing_objects_matched()
    except (tf.errors.OpError, AssertionError, ValueError) as exc:
        raise InputError(
            f"{document}: cannot be restored into this model ({exc}); use the model's own --model-dir"
        ) from exc


@contextmanager
def _temporary_folder(scratch: Path | None) -> Iterator[Path]:
    """A folder in `scratch`, or wherever the system keeps temporary files, that is gone afterwards."""
    try:
        if scratch:
            scratch.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=_TEMPORARY, dir=scratch) as folder:
            yield Path(folder)
    except OSError as exc:
        raise StorageError(f"cannot keep a checkpoint on this machine ({exc}); free space on that disk") from exc
