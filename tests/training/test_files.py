from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from packing.errors import UsageError, VerificationError
from packing.ports import MemoryStorage
from training import files
from training.files import StoredFile, fetch_checkpoint, fetch_file, store_files


@pytest.fixture(autouse=True)
def short_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "RANGE_BYTES", 100)


def store(contents: dict[str, bytes]) -> tuple[MemoryStorage, list[StoredFile]]:
    storage = MemoryStorage()
    with TemporaryDirectory() as folder:
        for name, content in contents.items():
            Path(folder, name).write_bytes(content)
        return storage, store_files(storage, Path(folder), "/store")


@given(st.dictionaries(st.sampled_from("abcdef"), st.binary(min_size=1, max_size=1000), min_size=1))
def test_files_come_back_as_they_were(contents: dict[str, bytes]) -> None:
    storage, stored = store(contents)
    assert storage.objects == {f"/store/{name}": content for name, content in contents.items()}
    assert [file.name for file in stored] == sorted(contents)
    with TemporaryDirectory() as folder:
        for file in stored:
            path = Path(folder, file.name)
            fetch_file(storage, f"/store/{file.name}", file, path)
            assert path.read_bytes() == contents[file.name]


def test_a_file_is_read_in_ranges(tmp_path: Path) -> None:
    storage, (file,) = store({"a": os.urandom(1001)})
    fetch_file(storage, "/store/a", file, tmp_path / "a")
    assert storage.requests.count(("read", "/store/a")) == 11


@given(st.data())
def test_an_altered_file_is_named_with_what_was_expected_and_found(data: st.DataObject) -> None:
    content = data.draw(st.binary(min_size=1, max_size=300))
    other = data.draw(st.one_of(st.none(), st.binary(max_size=300)))
    same_size = bytearray(content)
    same_size[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    storage, (file,) = store({"a": content})
    storage.objects["/store/a"] = bytes(same_size)
    if other is not None and other != content:
        storage.objects["/store/a"] = other
    with TemporaryDirectory() as folder:
        with pytest.raises(VerificationError, match=r"^/store/a: expected .* found ") as error:
            fetch_file(storage, "/store/a", file, Path(folder, "a"))
        assert file.sha256 in str(error.value) or f"expected {len(content)} bytes" in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(VerificationError, match=r"^/store/a: expected 3 bytes, found no such object"):
        fetch_file(MemoryStorage(), "/store/a", StoredFile("a", 3, ""), tmp_path / "a")


def test_checkpoints_are_copied_by_folder_and_by_prefix_with_the_shape_of_their_model(tmp_path: Path) -> None:
    storage = MemoryStorage()
    names = ["a.ckpt.index", "a.ckpt.data-00000-of-00001", "b.ckpt.index", "bert_config.json"]
    for name in names:
        storage.write(f"s3://models/bert/{name}", name.encode())
    whole = fetch_checkpoint(storage, "s3://models/bert", tmp_path / "whole")
    assert {path.name: path.read_bytes() for path in whole.iterdir()} == {name: name.encode() for name in names}
    prefix = fetch_checkpoint(storage, "s3://models/bert/a.ckpt", tmp_path / "one")
    assert prefix.name == "a.ckpt"
    assert {path.name for path in prefix.parent.iterdir()} == set(names) - {"b.ckpt.index"}
    with pytest.raises(UsageError, match="s3://models/none: expected a folder or a prefix"):
        fetch_checkpoint(storage, "s3://models/none", tmp_path / "none")
