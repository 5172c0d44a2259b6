"""The text that the demo finds on the machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from demo.corpus import MINIMUM_WORDS, collect_documents, docstrings, python_topics, split_sentences

LONG = "This sentence is repeated until the text is long enough. " * 20


@pytest.fixture
def site_packages(tmp_path: Path) -> Path:
    package = tmp_path / "package"
    (package / "inner").mkdir(parents=True)
    (package / "a.py").write_text(f'"""{LONG}First."""\nraise SystemExit("imported")\n')
    (package / "b.py").write_text(
        f'class C:\n    """{LONG}Second."""\n\n    def f(self):\n        """{LONG}Third."""\n\n'
        f'def g():\n    """Short."""\n\ndef h():\n    """{LONG}First."""\n'
    )
    (package / "inner/broken.py").write_text('"""no end')
    (package / "other.txt").write_text(f'"""{LONG}Not Python."""')
    return tmp_path


def test_long_docstrings_are_found_once_and_in_order_without_importing(site_packages: Path) -> None:
    topics = len({tuple(split_sentences(text)) for text in python_topics() if len(text.split()) >= MINIMUM_WORDS})
    documents = collect_documents(site_packages, ["package"])
    assert [document[-1] for document in documents[:3]] == ["First.", "Second.", "Third."]
    assert len(documents) == 3 + topics
    assert all(sentence for document in documents for sentence in document)


def test_broken_files_are_passed_over(site_packages: Path) -> None:
    assert list(docstrings(site_packages / "package" / "inner")) == []


def test_pythons_topics_are_english_texts() -> None:
    topics = list(python_topics())
    assert len(topics) > 50
    assert any("exception" in topic for topic in topics)


def test_sentences_leave_out_rulers_and_interpreter_sessions() -> None:
    text = "One. Two\nis here.\n\nParameters\n----------\n>>> f(1)\n\nThree?\n"
    assert split_sentences(text) == ["One.", "Two is here.", "Parameters", "Three?"]
