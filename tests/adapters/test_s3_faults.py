"""What the S3 adapter makes of servers and networks that fail."""

from __future__ import annotations

import base64
import hashlib
import os

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

        @settings(deadline=None, max_examples=50)
        @given(st.lists(st.integers(0, 200_000), max_size=MAX_RESUMPTIONS), st.integers(0, 1000))
        def read(cuts: list[int], start: int) -> None:
            behaviour.cuts = list(cuts)
            behaviour.requests.clear()
            assert S3Storage(client).read(URI, start=start) == CONTENT[start:]
            assert all(request[2].get("If-Match") == f'"{behaviour.etag}"' for request in behaviour.requests[1:])

        read()


def test_a_body_that_is_always_cut_is_an_error_in_the_end() -> None:
    with (
        faulty_server(Behaviour(CONTENT, cuts=[10] * 100)) as client,
        pytest.raises(StorageError, match=r"s3://bucket/key: expected 300000 bytes, got \d+ in 9 attempts"),
    ):
        S3Storage(client).read(URI)


@pytest.mark.parametrize("ignores_if_match", [False, True])
def test_an_object_replaced_between_two_parts_is_never_mixed(ignores_if_match: bool) -> None:  # noqa: FBT001
    behaviour = Behaviour(CONTENT, cuts=[1000], replaced_after=1, ignores_if_match=ignores_if_match)
    with faulty_server(behaviour) as client, pytest.raises(ObjectChangedError, match=URI):
        S3Storage(client).read(URI)
    assert len(behaviour.requests) == 2


def test_a_read_as_a_whole_has_a_deadline() -> None:
    behaviour = Behaviour(CONTENT, cuts=[1] * 100)
    with faulty_server(behaviour) as client, pytest.raises(StorageError, match="expected 300000 bytes, got 1 in 1"):
        S3Storage(client, deadline=0).read(URI)


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
