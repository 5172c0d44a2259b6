"""Objects in any S3-compatible store, through boto3.

Three habits make the many servers behave alike. Checksums are sent only where S3 requires them, as botocore's default
trailers break ranged reads on rclone and uploads over TLS on rclone and Ceph; every upload carries Content-MD5 instead,
which rclone and SeaweedFS enforce. A body that ends early is resumed by Range with its ETag pinned, as botocore does
not retry it and may return it silently short. And a read or a write as a whole has a deadline.
"""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from urllib3.exceptions import HTTPError

from packing.adapters.s3_upload import PART_BYTES, SINGLE_PUT_BYTES, put, put_parts
from packing.errors import ObjectChangedError, ObjectNotFoundError, StorageError, StowageError
from packing.ports import Buffer, ObjectInfo, byte_view, check_range

DEADLINE_SECONDS = 600.0
RECEIVE_BYTES = 256 * 1024
MAX_RESUMPTIONS = 8


def client_config() -> Config:
    """The botocore settings that every S3-compatible server understands."""
    return Config(
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        retries={"mode": "standard", "total_max_attempts": 4},
        connect_timeout=10,
        read_timeout=60,
        max_pool_connections=32,
        s3={"addressing_style": "path"},
    )


def s3_client() -> Any:
    """A client by the standard AWS environment; path-style addresses, which servers without wildcard DNS need."""
    try:
        return boto3.session.Session().client("s3", config=client_config())
    except (BotoCoreError, ValueError) as exc:
        raise StorageError(f"cannot make an S3 client ({exc}); check AWS_ENDPOINT_URL and AWS_PROFILE") from exc


class S3Storage:
    """`Storage` over a boto3 client; one instance may be used by many threads.

    A read or write may take `deadline` seconds, and what waits for the network then. An object of more than
    `single_put_bytes` is sent in parts of `part_bytes`.
    """

    def __init__(
        self,
        client: Any,
        *,
        deadline: float = DEADLINE_SECONDS,
        single_put_bytes: int = SINGLE_PUT_BYTES,
        part_bytes: int = PART_BYTES,
    ) -> None:
        self._client = client
        self._deadline = deadline
        self._single_put_bytes = single_put_bytes
        self._part_bytes = part_bytes

    def list(self, prefix: str) -> list[ObjectInfo]:
        bucket, key = _split(prefix)
        folder = key.rstrip("/") + "/" if key else ""
        found: list[ObjectInfo] = []
        with self._translated(prefix):
            for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=folder):
                found.extend(
                    ObjectInfo(f"s3://{bucket}/{entry['Key']}", entry["Size"], entry["ETag"].strip('"'))
                    for entry in page.get("Contents", ())
                )
        return sorted(found, key=lambda info: info.uri)

    def head(self, uri: str) -> ObjectInfo:
        bucket, key = _split(uri)
        with self._translated(uri):
            answer = self._client.head_object(Bucket=bucket, Key=key)
        return ObjectInfo(uri, answer["ContentLength"], answer["ETag"].strip('"'))

    def read(self, uri: str, *, start: int = 0, size: int | None = None, etag: str | None = None) -> bytes:
        """One request for a whole object, which tells its size; a rest from `start` takes one more to learn it."""
        answer = None
        if start == 0 and size is None:
            answer = self._get(uri, 0, None, etag)
            size, etag = int(answer["ContentLength"]), answer["ETag"].strip('"')
        elif start < 0 or size is None or size <= 0:
            info = self._check(uri, start, size, etag)
            size, etag = info.size - start if size is None else size, info.etag
        content = io.BytesIO()
        if size:
            # Room for what comes; unlike a bytearray, it is handed over as bytes without a copy.
            content.seek(size - 1)
            content.write(b"\0")
        with content.getbuffer() as view:
            self._fill(uri, view, start, etag, answer)
        return content.getvalue()

    def read_into(self, uri: str, buffer: Buffer, *, start: int = 0, etag: str | None = None) -> None:
        view = byte_view(buffer)
        if start < 0 or not view:
            self._check(uri, start, len(view), etag)
        self._fill(uri, view, start, etag)

    def _check(self, uri: str, start: int, size: int | None, etag: str | None) -> ObjectInfo:
        """Check a range that no request can ask for: one of no bytes, or of all from what may be the very end."""
        info = self.head(uri)
        _check_etag(uri, etag, info.etag)
        check_range(uri, start, size, info.size)
        return info

    def _fill(self, uri: str, view: memoryview, start: int, etag: str | None, answer: Any = None) -> None:
        """Fill `view` by as many ranged requests as it takes (the first may be `answer`), all of the same version."""
        deadline = time.monotonic() + self._deadline
        filled = failures = 0
        while filled < len(view):
            answer = answer or self._get(uri, start + filled, len(view) - filled, etag)
            etag = answer["ETag"].strip('"')
            available = start + filled + int(answer["ContentLength"])
            if available < start + len(view):
                answer["Body"].close()
            check_range(uri, start, len(view), available)
            arrived, problem = _receive(answer["Body"], view[filled:], deadline)
            filled += arrived
            failures += problem is not None
            if problem is not None and (failures > MAX_RESUMPTIONS or time.monotonic() > deadline):
                raise StorageError(
                    f"{uri}: expected {len(view)} bytes, got {filled} in {failures} attempts; the last ended with "
                    f"{problem!r}; check the store's network"
                ) from problem
            answer = None

    def _get(self, uri: str, first: int, size: int | None, etag: str | None) -> Any:
        bucket, key = _split(uri)
        options: dict[str, str] = {}
        if etag is not None:
            options["IfMatch"] = f'"{etag}"'
        if size is not None:
            options["Range"] = f"bytes={first}-{first + size - 1}"
        with self._translated(uri):
            answer = self._client.get_object(Bucket=bucket, Key=key, **options)
        try:
            # Not every server heeds If-Match, and a gateway may drop Range and send the whole object.
            _check_etag(uri, etag, answer["ETag"].strip('"'))
            if size is not None and answer["ContentLength"] > size:
                raise StorageError(
                    f"{uri}: expected {size} bytes from {first}, got {answer['ContentLength']}; "
                    f"the store at {self._endpoint} must serve ranges"
                )
        except StowageError:
            answer["Body"].close()
            raise
        return answer

    def write(self, uri: str, data: Buffer) -> ObjectInfo:
        """One request, or beyond `single_put_bytes` several parts at a time, which become visible together."""
        bucket, key = _split(uri)
        view = byte_view(data)
        deadline = time.monotonic() + self._deadline
        with self._translated(uri):
            if len(view) <= self._single_put_bytes:
                return ObjectInfo(uri, len(view), put(self._client, bucket, key, view, deadline))
            put_parts(self._client, bucket, key, view, self._part_bytes, deadline)
        # rclone answers the completion of an upload with another ETag than every later request.
        info = self.head(uri)
        check_range(uri, 0, len(view), info.size)
        return info

    def delete(self, uri: str) -> None:
        bucket, key = _split(uri)
        with suppress(ObjectNotFoundError), self._translated(uri):
            self._client.delete_object(Bucket=bucket, Key=key)

    @contextmanager
    def _translated(self, uri: str) -> Iterator[None]:
        try:
            yield
        except ClientError as exc:
            raise _from_answer(uri, self._endpoint, exc) from exc
        except (BotoCoreError, TimeoutError) as exc:
            raise StorageError(
                f"{uri}: the request to the store at {self._endpoint} failed ({exc}); "
                "check its address, the credentials and the network"
            ) from exc

    @property
    def _endpoint(self) -> str:
        return str(self._client.meta.endpoint_url)


def _receive(body: Any, view: memoryview, deadline: float) -> tuple[int, Exception | None]:
    """Fill `view` with a response; how many bytes arrived, and why it ended early, or None if it is complete."""
    arrived = 0
    try:
        # What is there is taken at once: waiting for a full buffer would let a trickle outlast the deadline.
        with body as stream:
            while arrived < len(view):
                piece = stream.read1(min(RECEIVE_BYTES, len(view) - arrived))
                if not piece:
                    return arrived, EOFError("the end of the response")
                view[arrived : arrived + len(piece)] = piece
                arrived += len(piece)
                if time.monotonic() > deadline:
                    return arrived, TimeoutError("the deadline for the whole read")
    except (HTTPError, OSError) as exc:
        return arrived, exc
    return arrived, None


def _from_answer(uri: str, endpoint: str, exc: ClientError) -> StowageError:
    """The error that a server's answer means; a HEAD has no body, so the status must do where there is no code."""
    error = exc.response.get("Error", {})
    status = exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    code = str(error.get("Code", status))
    reason = f"{code}: {error['Message']}" if error.get("Message") else code
    if code == "NoSuchBucket":
        return StorageError(
            f"{uri}: the store at {endpoint} has no such bucket ({reason}); create it or check the name"
        )
    if code in ("NoSuchKey", "NotFound", "404"):
        return ObjectNotFoundError(f"{uri}: the store at {endpoint} has no such object ({reason})")
    if status == 412:
        return ObjectChangedError(f"{uri}: it was replaced since it was listed ({reason}); run again")
    if status == 416:
        return StorageError(f"{uri}: it ends before the bytes asked for ({reason}); the object may be truncated")
    if status in (401, 403):
        return StorageError(
            f"{uri}: the store at {endpoint} refused access ({reason}); check the keys and their permissions"
        )
    return StorageError(f"{uri}: the store at {endpoint} answered with an error ({reason})")


def _check_etag(uri: str, expected: str | None, found: str) -> None:
    if expected is not None and found != expected:
        raise ObjectChangedError(f"{uri}: expected ETag {expected}, found {found}; it was replaced, run again")


def _split(uri: str) -> tuple[str, str]:
    """Bucket and key of `s3://bucket/key`."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key
