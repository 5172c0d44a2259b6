"""Plain text as BERT's pretraining has always taken it: one sentence a line, an empty line after each document."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from pathlib import Path

from packing.errors import InputError, UsageError

Document = list[str]
"""The sentences of one document, in order."""


def read_documents(paths: Iterable[Path]) -> list[Document]:
    """All documents of some UTF-8 text files, in the order given; raises InputError naming the file."""
    documents: list[Document] = []
    for path in paths:
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as exc:
            found = f"byte 0x{exc.object[exc.start]:02x} at offset {exc.start}"
            raise InputError(f"{path}: expected UTF-8 text, found {found}; convert the file") from exc
        except OSError as exc:
            raise InputError(f"{path}: cannot be read ({exc.strerror})") from exc
        documents.extend(parse_documents(text))
    if not documents:
        raise InputError("expected at least one sentence in the input files, found none; check the paths")
    return documents


def parse_documents(text: str) -> list[Document]:
    """Split text into documents at empty lines."""
    documents: list[Document] = [[]]
    for line in text.splitlines():
        if sentence := line.strip():
            documents[-1].append(sentence)
        elif documents[-1]:
            documents.append([])
    return [document for document in documents if document]


def split_held_out(
    documents: Sequence[Document], share: float, rng: random.Random
) -> tuple[list[Document], list[Document]]:
    """Draw `share` of the documents for evaluation; returns (training, held out), each in the order given.

    Whole documents, before any duplication, so that no held-out sentence is ever trained on. Both parts have two
    documents or more (the held-out one none if `share` is 0), since a random next sentence comes from another document.
    """
    if not 0 <= share < 1:
        raise UsageError(f"held-out: expected a share from 0 to below 1, got {share}")
    wanted = max(2, round(len(documents) * share)) if share else 0
    if len(documents) - wanted < 2:
        raise InputError(
            f"expected at least {wanted + 2} documents ({wanted} to hold out), found {len(documents)}; "
            "separate documents by empty lines, or hold out less"
        )
    chosen = set(rng.sample(range(len(documents)), wanted))
    training = [document for index, document in enumerate(documents) if index not in chosen]
    return training, [documents[index] for index in sorted(chosen)]
