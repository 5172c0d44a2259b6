"""Uploading one buffer to S3: in one request, or in parts that travel side by side. Every request carries Content-MD5.

Failures are botocore's errors, or TimeoutError where the deadline for the whole upload has passed.
"""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import suppress
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

SINGLE_PUT_BYTES = 128 * 1024 * 1024
PART_BYTES = 16 * 1024 * 1024
PARALLEL_PARTS = 4
SMALL_BYTES = 1024 * 1024
"""Up to here a copy costs less than the round trip by which botocore announces a body that it reads piece by piece."""


def put(client: Any, bucket: str, key: str, view: memoryview, deadline: float) -> str:
    """Store the object with one request; its ETag."""
    answer = client.put_object(Bucket=bucket, Key=key, **_body(view, deadline))
    return str(answer["ETag"]).strip('"')


def put_parts(client: Any, bucket: str, key: str, view: memoryview, part_bytes: int, deadline: float) -> None:
    """Store the object in parts of `part_bytes`, some at a time; after a failure none of them is left."""
    where = {"Bucket": bucket, "Key": key}
    upload = {**where, "UploadId": client.create_multipart_upload(**where)["UploadId"]}

    def send(number: int) -> Mapping[str, Any]:
        part = view[(number - 1) * part_bytes : number * part_bytes]
        answer = client.upload_part(**upload, PartNumber=number, **_body(part, deadline))
        return {"PartNumber": number, "ETag": answer["ETag"]}

    try:
        parts = _send_all(send, -(-len(view) // part_bytes))
        client.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})
    except BaseException:
        # Parts of an upload that is never completed are invisible, but they are stored and paid for. A server
        # that is gone cannot be told; what went wrong first is what the caller is to hear.
        with suppress(BotoCoreError, ClientError):
            client.abort_multipart_upload(**upload)
        raise


def _send_all(send: Callable[[int], Mapping[str, Any]], count: int) -> list[Mapping[str, Any]]:
    """Send the parts 1 to `count`; after a failure no other part is begun, and none is on its way any more."""
    with ThreadPoolExecutor(PARALLEL_PARTS, thread_name_prefix="upload") as pool:
        sending = [pool.submit(send, number) for number in range(1, count + 1)]
        try:
            finished, _ = wait(sending, return_when=FIRST_EXCEPTION)
            for part in finished:
                part.result()
            return [part.result() for part in sending]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _body(view: memoryview, deadline: float) -> dict[str, Any]:
    """The arguments of a request that sends `view`."""
    if time.monotonic() > deadline:
        raise TimeoutError("the deadline for the whole write has passed")
    digest = hashlib.md5(view, usedforsecurity=False).digest()
    body = bytes(view) if len(view) <= SMALL_BYTES else _ViewFile(view, deadline)
    return {"Body": body, "ContentMD5": base64.b64encode(digest).decode()}


class _ViewFile:
    """A view as the seekable file that botocore signs, sends and sends again after a failure, without copying it."""

    def __init__(self, view: memoryview, deadline: float) -> None:
        self._view = view
        self._deadline = deadline
        self._position = 0

    def __len__(self) -> int:
        return len(self._view)

    def read(self, size: int = -1) -> memoryview:
        if time.monotonic() > self._deadline:
            raise TimeoutError("the deadline for the whole write has passed")
        end = len(self._view) if size < 0 else min(self._position + size, len(self._view))
        piece = self._view[self._position : end]
        self._position = end
        return piece

    def tell(self) -> int:
        return self._position

    def seek(self, position: int) -> None:
        self._position = position
