"""When the demo's raw data is made anew, and how it gets into the store."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from demo import raw_data
from demo.raw_data import SUMMARY, load_raw_data, raw_data_folder, upload
from packing.errors import UsageError
from packing.in_memory import MemoryStorage


def test_the_folder_depends_on_the_options_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = raw_data_folder(tmp_path)
    assert raw_data_folder(tmp_path) == first
    monkeypatch.setattr(raw_data, "OPTIONS", replace(raw_data.OPTIONS, seed=1))
    assert raw_data_folder(tmp_path) != first


def test_data_without_its_summary_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    assert load_raw_data(tmp_path) is None
    (tmp_path / SUMMARY).write_text(json.dumps({"train": {"sequences": 4, "tokens": 1000}}))
    data = load_raw_data(tmp_path)
    assert data is not None
    assert (data.train, data.sequences, data.mean_length) == (tmp_path / "train", 4, 250.0)


def test_upload_copies_every_file(tmp_path: Path) -> None:
    storage = MemoryStorage()
    for number in range(3):
        (tmp_path / f"part-{number}").write_bytes(b"x" * number)
    assert upload(storage, tmp_path, "s3://raw/a") == 3
    assert storage.objects == {f"s3://raw/a/part-{number}": b"x" * number for number in range(3)}


def test_upload_refuses_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="found none"):
        upload(MemoryStorage(), tmp_path, "s3://raw/a")
