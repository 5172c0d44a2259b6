"""Requests of the S3 adapter that need more than one answer, or get none."""

from __future__ import annotations

import base64
import hashlib
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import parse_qs, urlsplit

import boto3
import pytest
from botocore.config import Config

from demo.processes import free_port
from packing.adapters import open_storage
from packing.adapters.s3 import S3Storage, client_config
from packing.adapters.s3_upload import PARALLEL_PARTS
from packing.errors import StorageError
from tests.adapters.faulty_s3 import Behaviour, faulty_server

URI = "s3://bucket/key"
CONTENT = os.urandom(300_000)


def test_a_store_that_sends_the_whole_object_for_a_range_is_found_out() -> None:
    with faulty_server(Behaviour(CONTENT, ignores_range=True)) as client:
        for start, size in ((10, 20), (0, 20), (299_000, 1000)):
            with pytest.raises(StorageError, match=f"{URI}: expected {size} bytes from {start}, got 300000; .*ranges"):
                S3Storage(client).read(URI, start=start, size=size)


def test_a_body_that_stops_arriving_runs_into_the_deadline() -> None:
    stall = threading.Event()
    behaviour = Behaviour(CONTENT, cuts=[1000] * 20, stall=stall)
    with faulty_server(behaviour) as client:
        session = boto3.session.Session("key", "secret", region_name="us-east-1")
        config = client_config().merge(Config(read_timeout=0.1))
        impatient = session.client("s3", endpoint_url=client.meta.endpoint_url, config=config)
        with pytest.raises(StorageError, match=f"{URI}: expected 300000 bytes, got .*ReadTimeout"):
            S3Storage(impatient, deadline=0.3).read(URI)
        stall.set()
    assert 1 <= len(behaviour.requests) <= 5


def test_one_storage_serves_many_threads() -> None:
    with faulty_server(Behaviour(CONTENT)) as client, ThreadPoolExecutor(8) as pool:
        storage = S3Storage(client)
        ranges = [(start, 1 + 977 * start % 5000) for start in range(200)]
        read = pool.map(lambda each: storage.read(URI, start=each[0], size=each[1]), ranges)
        assert list(read) == [CONTENT[start : start + size] for start, size in ranges]


PART = 1_200_000
LARGE = os.urandom(10 * PART + 1)


def in_parts(client: Any, **options: Any) -> S3Storage:
    """A storage to which `LARGE` is eleven parts, too large to be copied."""
    return S3Storage(client, single_put_bytes=2 * PART, part_bytes=PART, **options)


def test_every_part_of_an_upload_carries_its_md5() -> None:
    behaviour = Behaviour(LARGE)
    with faulty_server(behaviour) as client:
        in_parts(client).write(URI, LARGE)
    parts = [(path, headers) for method, path, headers in behaviour.requests if method == "PUT"]
    assert len(parts) == 11
    for path, headers in parts:
        digest = hashlib.md5(behaviour.uploaded[path], usedforsecurity=False).digest()
        assert headers["Content-MD5"] == base64.b64encode(digest).decode()
        assert not [name for name in headers if "checksum" in name.lower() or "trailer" in name.lower()]
    in_order = sorted(parts, key=lambda part: int(parse_qs(urlsplit(part[0]).query)["partNumber"][0]))
    assert b"".join(behaviour.uploaded[path] for path, _ in in_order) == LARGE
    assert [method for method, _, _ in behaviour.requests].count("DELETE") == 0


def test_parts_travel_side_by_side() -> None:
    content = LARGE[: PARALLEL_PARTS * PART]
    behaviour = Behaviour(content, together=threading.Barrier(PARALLEL_PARTS))
    with faulty_server(behaviour) as client:
        in_parts(client).write(URI, content)
    assert len(behaviour.uploaded) == PARALLEL_PARTS


def test_an_upload_that_fails_leaves_no_parts() -> None:
    behaviour = Behaviour(b"", bad_part=3)
    with faulty_server(behaviour) as client, pytest.raises(StorageError, match=f"{URI}: .*BadDigest: because"):
        in_parts(client).write(URI, LARGE)
    methods = [method for method, _, _ in behaviour.requests]
    assert methods.count("POST") == 1
    assert methods.index("DELETE") == len(methods) - 1
    assert "uploadId=upload" in behaviour.requests[-1][1]


def test_an_upload_as_a_whole_has_a_deadline() -> None:
    behaviour = Behaviour(b"")
    with faulty_server(behaviour) as client:
        for content in (b"small", LARGE):
            with pytest.raises(StorageError, match=f"{URI}: .*the deadline for the whole write"):
                in_parts(client, deadline=0).write(URI, content)
    assert [method for method, _, _ in behaviour.requests] == ["POST", "DELETE"]


@pytest.mark.parametrize("size", [1000, 2 * PART])
def test_an_upload_that_a_busy_store_put_off_is_sent_again_from_its_start(size: int) -> None:
    behaviour = Behaviour(b"", busy=2)
    with faulty_server(behaviour) as client:
        S3Storage(client).write(URI, LARGE[:size])
    assert [method for method, _, _ in behaviour.requests] == ["PUT"] * 3
    assert behaviour.uploaded["/bucket/key"] == LARGE[:size]


def test_an_upload_that_the_store_cut_is_not_taken_for_complete() -> None:
    behaviour = Behaviour(b"what the store says it has")
    with faulty_server(behaviour) as client, pytest.raises(StorageError, match=rf"{URI}: expected .* found 26"):
        in_parts(client).write(URI, LARGE)


def test_a_store_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    address = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("AWS_ENDPOINT_URL", address)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    storage = open_storage()
    calls = (storage.list, storage.head, storage.read, storage.delete, lambda uri: storage.write(uri, b"x"))
    for call in calls:
        with pytest.raises(StorageError, match=f"^{URI}: .*{address}.*check its address"):
            call(URI)


def test_an_address_that_is_none_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "no address")
    with pytest.raises(StorageError, match=r"no address.*check AWS_ENDPOINT_URL"):
        open_storage().list(URI)


def test_missing_keys_are_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, os.devnull)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(StorageError, match=f"{URI}: .*credentials"):
        open_storage().list(URI)


@pytest.mark.slow
@pytest.mark.usefixtures("aws_environment")
def test_what_a_real_server_refuses_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    storage = open_storage()
    with pytest.raises(StorageError, match=r"^s3://nowhere/a: .*no such bucket .NoSuchBucket.*create it"):
        storage.list("s3://nowhere/a")
    for call in (storage.delete, lambda uri: storage.write(uri, b"x")):
        with pytest.raises(StorageError, match=r"^s3://nowhere/a: .*no such bucket .NoSuchBucket.*create it"):
            call("s3://nowhere/a")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        with monkeypatch.context() as patch:
            patch.setenv(name, "wrong")
            with pytest.raises(StorageError, match=r"^s3://raw/a: .*refused access.*check the keys"):
                open_storage().list("s3://raw/a")
