"""Objects in any S3-compatible store, through boto3.

Three habits make the many servers behave alike. Checksums are sent only where S3 requires them, as botocore's default
trailers break ranged reads on rclone and uploads over TLS on rclone and Ceph; every upload carries Content-MD5 instead,
which rclone and SeaweedFS enforce. A body that ends early is resumed by Range with its ETag pinned, as botocore does
not retry it and may return it silently short. And a read as a whole has a deadline.
"""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from urllib3.exceptions import HTTPError

from packing.errors import ObjectChangedError, ObjectNotFoundError, StorageError, StowageError
from packing.ports import ObjectInfo, check_range

DEADLINE_SECONDS = 600.0
SINGLE_PUT_BYTES = 64 * 1024 * 1024
PART_BYTES = 16 * 1024 * 1024
CHUNK_BYTES = 256 * 1024
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
    """`Storage` over a boto3 client; one instance may be used by many threads."""

    def __init__(self, client: Any, *, deadline: float = DEADLINE_SECONDS) -> None:
        self._client = client
        self._deadline = deadline

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
        """Read by as many ranged requests as it takes, all of the same version of the object."""
        deadline = time.monotonic() + self._deadline
        whole = start == 0 and size is None
        if not whole and (start < 0 or size is None or size <= 0):
            # No request can ask for no bytes, and one for all bytes from the very end is refused.
            info = self.head(uri)
            _check_etag(uri, etag, info.etag)
            check_range(uri, start, size, info.size)
            size, etag = info.size - start if size is None else size, info.etag
        content = bytearray()
        failures = 0
        while size is None or len(content) < size:
            first = start + len(content)
            answer = self._get(uri, first, None if size is None else size - len(content), etag)
            etag = answer["ETag"].strip('"')
            if size is None:
                size = int(answer["ContentLength"])
            check_range(uri, start, size, first + int(answer["ContentLength"]))
            problem = _append_body(answer["Body"], content, deadline)
            failures += problem is not None
            if problem is not None and (failures > MAX_RESUMPTIONS or time.monotonic() > deadline):
                raise StorageError(
                    f"{uri}: expected {size} bytes, got {len(content)} in {failures} attempts; the last ended with "
                    f"{problem!r}; check the store's network"
                ) from problem
        return bytes(content)

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

    def write(self, uri: str, data: bytes | bytearray | memoryview) -> ObjectInfo:
        """One request up to SINGLE_PUT_BYTES, beyond that several parts, which become visible together."""
        bucket, key = _split(uri)
        content = memoryview(data).cast("B")
        with self._translated(uri):
            if len(content) <= SINGLE_PUT_BYTES:
                body = bytes(content)
                answer = self._client.put_object(Bucket=bucket, Key=key, Body=body, ContentMD5=_md5(body))
                return ObjectInfo(uri, len(content), answer["ETag"].strip('"'))
            self._write_parts(bucket, key, content)
        # rclone answers the completion of an upload with another ETag than every later request.
        info = self.head(uri)
        check_range(uri, 0, len(content), info.size)
        return info

    def _write_parts(self, bucket: str, key: str, content: memoryview) -> None:
        where = {"Bucket": bucket, "Key": key}
        upload = self._client.create_multipart_upload(**where)["UploadId"]
        try:
            parts = []
            for number, first in enumerate(range(0, len(content), PART_BYTES), start=1):
                body = bytes(content[first : first + PART_BYTES])
                answer = self._client.upload_part(
                    **where, UploadId=upload, PartNumber=number, Body=body, ContentMD5=_md5(body)
                )
                parts.append({"PartNumber": number, "ETag": answer["ETag"]})
            self._client.complete_multipart_upload(**where, UploadId=upload, MultipartUpload={"Parts": parts})
        except BaseException:
            # Parts of an upload that is never completed are invisible, but they are stored and paid for. A server
            # that is gone cannot be told; what went wrong first is what the caller is to hear.
            with suppress(BotoCoreError, ClientError):
                self._client.abort_multipart_upload(**where, UploadId=upload)
            raise

    @contextmanager
    def _translated(self, uri: str) -> Iterator[None]:
        try:
            yield
        except ClientError as exc:
            raise _from_answer(uri, self._endpoint, exc) from exc
        except BotoCoreError as exc:
            raise StorageError(
                f"{uri}: the request to the store at {self._endpoint} failed ({exc}); "
                "check its address, the credentials and the network"
            ) from exc

    @property
    def _endpoint(self) -> str:
        return str(self._client.meta.endpoint_url)


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


def _append_body(body: Any, content: bytearray, deadline: float) -> Exception | None:
    """Append what arrives of a response; why it ended early, or None if it is complete."""
    try:
        for chunk in body.iter_chunks(CHUNK_BYTES):
            content += chunk
            if time.monotonic() > deadline:
                return TimeoutError("the deadline for the whole read")
    except (BotoCoreError, HTTPError, OSError) as exc:
        return exc
    finally:
        body.close()
    return None


def _check_etag(uri: str, expected: str | None, found: str) -> None:
    if expected is not None and found != expected:
        raise ObjectChangedError(f"{uri}: expected ETag {expected}, found {found}; it was replaced, run again")


def _md5(body: bytes) -> str:
    return base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()


def _split(uri: str) -> tuple[str, str]:
    """Bucket and key of `s3://bucket/key`."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key
