"""Training keeps to the language of Python 3.10, even where no such Python is there to run it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_bytes(), path.name, feature_version=(3, 10))


def imported(path: Path) -> Iterator[Path]:
    """The modules of this project that `path` imports anywhere."""
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from found(node.module)
            for alias in node.names:
                yield from found(f"{node.module}.{alias.name}")
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield from found(alias.name)


def found(module: str) -> Iterator[Path]:
    path = REPOSITORY.joinpath(*module.split("."))
    if module.partition(".")[0] in {"packing", "training"}:
        yield from (file for file in (path.with_suffix(".py"), path / "__init__.py") if file.exists())


def test_training_and_what_it_imports_is_python_3_10() -> None:
    pending, seen = set((REPOSITORY / "training").rglob("*.py")), set()
    while pending:
        path = pending.pop()
        seen.add(path)
        pending |= set(imported(path)) - seen
    names = {str(path.relative_to(REPOSITORY)) for path in seen}
    assert {"training/step.py", "packing/errors.py", "packing/adapters/s3.py"} <= names


def test_newer_syntax_would_be_found(tmp_path: Path) -> None:
    newer = tmp_path / "newer.py"
    newer.write_text("try:\n    pass\nexcept* ValueError:\n    pass\n")
    with pytest.raises(SyntaxError, match=r"Python 3\.11"):
        parse(newer)
