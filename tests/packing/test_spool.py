from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from packing.sequences import ROW_TYPES, SequenceBuffer, Sequences
from packing.spool import Spool
from tests.builders import raw_shard


def sequences_of(sizes: list[tuple[int, int]]) -> Sequences:
    buffer = SequenceBuffer()
    data = np.frombuffer(raw_shard(sizes), np.uint8)
    assert buffer.take(data, 0, len(data), 0) == len(data)
    return buffer.sequences()


@pytest.mark.parametrize("sizes", [[(20, 3), (5, 1), (64, 10)], []])
def test_what_is_kept_is_loaded(tmp_path: Path, sizes: list[tuple[int, int]]) -> None:
    spool, sequences = Spool(str(tmp_path), 10**6), sequences_of(sizes)
    assert not spool.holds("one")
    spool.save("one", sequences)
    assert spool.holds("one")
    buffer = SequenceBuffer(1, 1)
    spool.load("one", buffer)
    spool.load("one", buffer)
    loaded = buffer.sequences()
    assert len(loaded) == 2 * len(sizes)
    for name in ROW_TYPES.keys() - {"starts"}:
        assert np.array_equal(getattr(loaded, name), np.tile(getattr(sequences, name), 2))
    assert loaded.content.tobytes() == sequences.content.tobytes() * 2


@given(st.data())
def test_what_was_damaged_is_not_held(data: st.DataObject) -> None:
    with TemporaryDirectory() as folder:
        spool = Spool(folder, 10**6)
        spool.save("one", sequences_of([(20, 3), (5, 1)]))
        path = Path(folder) / "one"
        content = bytearray(path.read_bytes())
        at = data.draw(st.integers(0, len(content) - 1))
        if data.draw(st.booleans()):
            content[at] ^= 1 << data.draw(st.integers(0, 7))
        else:
            del content[at:]
            content = content or bytearray(1)
        path.write_bytes(content)
        assert not spool.holds("one")


def test_no_more_is_kept_than_there_is_room_for(tmp_path: Path) -> None:
    sequences = sequences_of([(20, 3)] * 10)
    probe = Spool(str(tmp_path), 10**6)
    probe.save("first", sequences)
    size = (tmp_path / "first").stat().st_size
    spool = Spool(str(tmp_path), 2 * size + size // 2)
    for name in ("second", "third"):
        spool.save(name, sequences)
    assert [spool.holds(name) for name in ("first", "second", "third")] == [True, True, False]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "ledger", "second"]


def test_a_folder_that_cannot_be_written_keeps_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    spool = Spool(str(tmp_path), 10**6)
    (tmp_path / "one").mkdir()
    spool.save("one", sequences_of([(20, 3)]))
    assert not spool.holds("one")
    assert not [path for path in tmp_path.iterdir() if path.suffix == ".part"]
