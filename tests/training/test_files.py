from __future__ import annotations

import os
import re
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from packing.errors import UsageError, VerificationError
from packing.in_memory import MemoryStorage
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


FILES = ("index", "data-00000-of-00002", "data-00001-of-00002")
FOLDER = "s3://models/bert"


def store_checkpoints(storage: MemoryStorage, *names: str) -> set[str]:
    """Two TensorFlow checkpoints or more beside other files; gives the names of what belongs to the first."""
    for name in names:
        for suffix in FILES:
            storage.write(f"{FOLDER}/{name}.{suffix}", f"{name} {suffix}".encode())
        storage.write(f"{FOLDER}/{name}.meta", b"a graph")
    storage.write(f"{FOLDER}/bert_config.json", b"{}")
    storage.write(f"{FOLDER}/below/{names[0]}.index", b"another")
    storage.requests.clear()
    return {*(f"{names[0]}.{suffix}" for suffix in FILES), "bert_config.json"}


def copied(storage: MemoryStorage, folder: Path) -> set[str]:
    """The names of the copies, which are as they were."""
    assert all(path.read_bytes() == storage.objects[f"{FOLDER}/{path.name}"] for path in folder.iterdir())
    return {path.name for path in folder.iterdir()}


def test_of_several_checkpoints_one_is_copied_with_the_shape_of_its_model(tmp_path: Path) -> None:
    storage = MemoryStorage()
    wanted = store_checkpoints(storage, "a.ckpt-1", "a.ckpt-12")
    assert fetch_checkpoint(storage, f"{FOLDER}/a.ckpt-1", tmp_path) == tmp_path / "a.ckpt-1"
    assert copied(storage, tmp_path) == wanted
    assert {uri.rsplit("/", 1)[1] for kind, uri in storage.requests if kind == "read"} == wanted


@pytest.mark.parametrize("path", ["b.ckpt", "/home/somebody/bert/b.ckpt"])
def test_a_folder_means_the_checkpoint_that_it_names(path: str, tmp_path: Path) -> None:
    storage = MemoryStorage()
    wanted = store_checkpoints(storage, "b.ckpt", "a.ckpt")
    storage.write(
        f"{FOLDER}/checkpoint", f'model_checkpoint_path: "{path}"\nall_model_checkpoint_paths: "a.ckpt"\n'.encode()
    )
    assert fetch_checkpoint(storage, FOLDER, tmp_path) == tmp_path / "b.ckpt"
    assert copied(storage, tmp_path) == wanted


def test_a_folder_means_its_only_checkpoint(tmp_path: Path) -> None:
    storage = MemoryStorage()
    wanted = store_checkpoints(storage, "a.ckpt")
    storage.write(f"{FOLDER}/checkpoint", b'model_checkpoint_path: "gone.ckpt"\n')
    assert fetch_checkpoint(storage, FOLDER, tmp_path) == tmp_path / "a.ckpt"
    assert copied(storage, tmp_path) == wanted


def test_no_checkpoint_and_several_are_refused_before_anything_is_copied(tmp_path: Path) -> None:
    storage = MemoryStorage()
    store_checkpoints(storage, "a.ckpt", "b.ckpt")
    for uri, message in [
        (FOLDER, f"{FOLDER}: expected one checkpoint, found a.ckpt, b.ckpt; give the prefix of one"),
        (f"{FOLDER}/c.ckpt", f"{FOLDER}/c.ckpt: expected a checkpoint, found no c.ckpt.index"),
        ("s3://models/none", "s3://models/none: expected a checkpoint, found no none.index"),
    ]:
        with pytest.raises(UsageError, match=f"^{re.escape(message)}"):
            fetch_checkpoint(storage, uri, tmp_path)
    assert not list(tmp_path.iterdir())
    assert "read" not in {kind for kind, _ in storage.requests}
