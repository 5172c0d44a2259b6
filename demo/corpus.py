"""Real English text that is on every machine: long docstrings of the installed packages, and Python's own topics.

    python -m demo.corpus OUTPUT.txt

writes one sentence a line and an empty line after each document, the input of `training.create_pretraining_data`.
Sources are parsed and never imported, so nothing of what is read runs.
"""

from __future__ import annotations

import argparse
import ast
import importlib.util
import re
import sys
import sysconfig
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

PACKAGES = ("huggingface_hub", "sqlalchemy", "tensorflow")
MINIMUM_WORDS = 100

Definition = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
Document = list[str]  # its sentences


def collect_documents(site_packages: Path, packages: Sequence[str] = PACKAGES) -> list[Document]:
    """Every distinct text of MINIMUM_WORDS words or more, as sentences, in the order of the sorted paths."""
    sources = [*(docstrings(site_packages / package) for package in packages), python_topics()]
    long = (text for source in sources for text in source if len(text.split()) >= MINIMUM_WORDS)
    distinct = dict.fromkeys(tuple(split_sentences(text)) for text in long)
    return [list(sentences) for sentences in distinct if sentences]


def docstrings(package: Path) -> Iterator[str]:
    """All docstrings below a package's folder; files that are not Python of this version are passed over."""
    for path in sorted(package.rglob("*.py")):
        source = path.read_bytes()
        if b'"""' not in source:
            continue
        try:
            tree = ast.parse(source)
        except (SyntaxError, ValueError):
            continue
        for node in definitions(tree):
            if text := ast.get_docstring(node):
                yield text


def definitions(node: Definition) -> Iterator[Definition]:
    """A module, class or function and those directly inside it, in source order (walking all nodes takes 3x longer)."""
    yield node
    for child in node.body:
        if isinstance(child, Definition):
            yield from definitions(child)


def python_topics() -> Iterator[str]:
    """The language reference's topics, a dict of literals in the standard library's `pydoc_data.topics`."""
    specification = importlib.util.find_spec("pydoc_data.topics")
    if specification is None or specification.origin is None:
        return
    for node in ast.parse(Path(specification.origin).read_bytes()).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            yield from ast.literal_eval(node.value).values()


def split_sentences(text: str) -> Document:
    """Sentences of one text: paragraphs end at empty lines; rulers, tables and interpreter sessions are left out."""
    sentences = []
    for paragraph in re.split(r"\n\s*\n", text):
        lines = (line.strip() for line in paragraph.splitlines())
        prose = " ".join(line for line in lines if re.search(r"[A-Za-z]{2}", line) and not line.startswith(">>>"))
        sentences += [sentence for sentence in re.split(r"(?<=[.!?:])\s+(?=[A-Z`])", prose) if sentence]
    return sentences


def main() -> None:
    """Collect the text and write it to the file named on the command line."""
    parser = argparse.ArgumentParser(prog="python -m demo.corpus", description="Collect English text of this machine.")
    parser.add_argument("output", type=Path)
    output = parser.parse_args().output
    warnings.simplefilter("ignore", SyntaxWarning)  # other people's escape sequences
    documents = collect_documents(Path(sysconfig.get_path("purelib")))
    output.write_text("".join("\n".join(document) + "\n\n" for document in documents), encoding="utf-8")
    print(f"{len(documents):,} documents, {output.stat().st_size:,} bytes", file=sys.stderr)  # noqa: T201


if __name__ == "__main__":
    main()
