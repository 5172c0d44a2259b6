"""What the S3 adapter makes of servers and networks that fail."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from packing.adapters.s3 import MAX_RESUMPTIONS, S3Storage
from packing.errors import ObjectChangedError, ObjectNotFoundError, StorageError
from tests.adapters.faulty_s3 import Behaviour, faulty_server

URI = "s3://bucket/key"
CONTENT = os.urandom(300_000)


def test_cut_bodies_are_resumed_where_they_ended() -> None:
    behaviour = Behaviour(CONTENT)
    with faulty_server(behaviour) as client:

        @settings(max_examples=50)
        @given(st.lists(st.integers(0, 200_000), max_size=MAX_RESUMPTIONS), st.integers(0, 1000))
        def read(cuts: list[int], start: int) -> None:
            behaviour.cuts = list(cuts)
            behaviour.requests.clear()
            assert S3Storage(client).read(URI, start=start) == CONTENT[start:]
            assert all(request[2].get("If-Match") == f'"{behaviour.etag}"' for request in behaviour.requests[1:])

        read()


def test_a_buffer_is_filled_by_as_many_ranges_as_it_takes_and_not_a_byte_beyond() -> None:
    behaviour = Behaviour(CONTENT)
    with faulty_server(behaviour) as client:

        @settings(max_examples=50)
        @given(
            st.lists(st.integers(0, 100_000), max_size=MAX_RESUMPTIONS), st.integers(0, 1000), st.integers(1, 299_000)
        )
        def read(cuts: list[int], start: int, size: int) -> None:
            behaviour.cuts = list(cuts)
            behaviour.requests.clear()
            buffer = bytearray(size + 2)
            S3Storage(client).read_into(URI, memoryview(buffer)[1:-1], start=start, etag=behaviour.etag)
            assert buffer == b"\0" + CONTENT[start : start + size] + b"\0"
            for _, _, headers in behaviour.requests:
                assert headers["If-Match"] == f'"{behaviour.etag}"'
                assert headers["Range"].endswith(f"-{start + size - 1}")

        read()


@pytest.fixture(params=["read", "read_into"])
def read(request: pytest.FixtureRequest) -> Callable[[S3Storage], object]:
    """Both ways to read the whole object."""
    if request.param == "read":
        return lambda storage: storage.read(URI)
    return lambda storage: storage.read_into(URI, bytearray(len(CONTENT)))


def test_a_body_that_is_always_cut_is_an_error_in_the_end(read: Callable[[S3Storage], object]) -> None:
    with (
        faulty_server(Behaviour(CONTENT, cuts=[10] * 100)) as client,
        pytest.raises(StorageError, match=r"s3://bucket/key: expected 300000 bytes, got \d+ in 9 attempts"),
    ):
        read(S3Storage(client))


@pytest.mark.parametrize("ignores_if_match", [False, True])
def test_an_object_replaced_between_two_parts_is_never_mixed(
    read: Callable[[S3Storage], object],
    ignores_if_match: bool,  # noqa: FBT001
) -> None:
    behaviour = Behaviour(CONTENT, cuts=[1000], replaced_after=1, ignores_if_match=ignores_if_match)
    with faulty_server(behaviour) as client, pytest.raises(ObjectChangedError, match=URI):
        read(S3Storage(client))
    assert len(behaviour.requests) == 2


def test_an_object_that_ends_before_the_buffer_is_full_is_truncated() -> None:
    with faulty_server(Behaviour(CONTENT)) as client:
        for start, size in ((0, 300_001), (299_999, 2), (299_000, 5000)):
            with pytest.raises(StorageError, match=f"{URI}: expected at least {start + size} bytes, found 300000"):
                S3Storage(client).read_into(URI, bytearray(size), start=start)


def test_a_read_as_a_whole_has_a_deadline(read: Callable[[S3Storage], object]) -> None:
    behaviour = Behaviour(CONTENT, cuts=[1] * 100)
    with faulty_server(behaviour) as client, pytest.raises(StorageError, match="expected 300000 bytes, got 1 in 1"):
        read(S3Storage(client, deadline=0))


def test_a_trickle_does_not_outlast_the_deadline(read: Callable[[S3Storage], object]) -> None:
    with (
        faulty_server(Behaviour(CONTENT, trickle=100)) as client,
        pytest.raises(StorageError, match=r"expected 300000 bytes, got \d{1,5} in 1 attempts; .*the deadline"),
    ):
        read(S3Storage(client, deadline=0.05))


def test_a_connection_is_used_again() -> None:
    behaviour = Behaviour(CONTENT)
    with faulty_server(behaviour) as client:
        storage = S3Storage(client)
        for start in range(10):
            storage.read_into(URI, bytearray(290_000), start=start)
            storage.write(URI, CONTENT)
    assert len(behaviour.requests) == 20
    assert behaviour.connections == 1


@pytest.mark.parametrize(
    ("status", "code", "error", "message"),
    [
        (404, "NoSuchBucket", StorageError, "no such bucket .*because.*create it"),
        (404, "NoSuchKey", ObjectNotFoundError, "no such object"),
        (403, "AccessDenied", StorageError, "refused access .*AccessDenied: because.*check the keys"),
        (412, "PreconditionFailed", ObjectChangedError, "replaced"),
        (400, "InvalidRequest", StorageError, "answered with an error .*InvalidRequest: because"),
    ],
)
def test_a_servers_reason_reaches_the_user(status: int, code: str, error: type[StorageError], message: str) -> None:
    with faulty_server(Behaviour(CONTENT, status=status, code=code)) as client:
        storage = S3Storage(client)
        for call in (lambda: storage.read(URI), lambda: storage.write(URI, b"x")):
            with pytest.raises(error, match=f"^{URI}: .*{message}") as caught:
                call()
            assert type(caught.value) is error
            assert caught.value.__cause__ is not None


def test_a_passing_server_error_is_retried() -> None:
    behaviour = Behaviour(CONTENT, status=503, code="SlowDown")
    with faulty_server(behaviour) as client, pytest.raises(StorageError, match="SlowDown"):
        S3Storage(client).read(URI)
    assert len(behaviour.requests) == 4


def test_an_upload_carries_its_md5_and_no_trailing_checksum() -> None:
    behaviour = Behaviour(b"")
    with faulty_server(behaviour) as client:
        S3Storage(client).write(URI, CONTENT)
    ((method, path, headers),) = behaviour.requests
    assert (method, path) == ("PUT", "/bucket/key")
    assert headers["Content-MD5"] == base64.b64encode(hashlib.md5(CONTENT, usedforsecurity=False).digest()).decode()
    assert behaviour.uploaded["/bucket/key"] == CONTENT
    assert not [name for name in headers if "checksum" in name.lower() or "trailer" in name.lower()]
    assert "aws-chunked" not in headers.get("Content-Encoding", "")
