"""An overlay shows the store below it and leaves it alone; that it is a `Storage` is shown in `tests/contracts`."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from packing.errors import ObjectNotFoundError
from packing.in_memory import MemoryStorage
from packing.overlay import Overlay
from packing.ports import Storage

URIS = st.sampled_from(["/a/1", "/a/2", "/a/b/3", "/c/4"])
CHANGES = st.lists(st.tuples(URIS, st.none() | st.binary(max_size=5)), max_size=8)


def change(storage: Storage, changes: list[tuple[str, bytes | None]]) -> None:
    for uri, content in changes:
        if content is None:
            storage.delete(uri)
        else:
            storage.write(uri, content)


@given(CHANGES, CHANGES)
def test_it_looks_like_the_store_with_the_changes_and_leaves_the_store(
    before: list[tuple[str, bytes | None]], after: list[tuple[str, bytes | None]]
) -> None:
    base, changed = MemoryStorage(), MemoryStorage()
    change(base, before)
    overlay, objects = Overlay(base), dict(base.objects)
    change(changed, before + after)
    change(overlay, after)
    for prefix in ("/", "/a", "/c", "/none"):
        assert overlay.list(prefix) == changed.list(prefix)
    for uri in ("/a/1", "/a/2", "/a/b/3", "/c/4"):
        if uri in changed.objects:
            assert overlay.head(uri) == changed.head(uri)
            assert overlay.read(uri) == changed.read(uri)
        else:
            for read in (overlay.head, overlay.read):
                with pytest.raises(ObjectNotFoundError):
                    read(uri)
    assert base.objects == objects
