"""An S3 server of one object that misbehaves on demand; it records every request that it gets."""

from __future__ import annotations

import hashlib
import http.server
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

import boto3

from packing.adapters.s3 import client_config


@dataclass
class Behaviour:
    """What the server does.

    It sends `cuts` bytes of successive bodies before it hangs up (once `stall` is set), or `trickle` bytes at a time,
    slowly. It answers all requests with `status`, or just the first `busy` ones with 503; refuses part `bad_part` of
    an upload, and takes parts only when as many as `together` waits for are on their way.
    """

    content: bytes
    cuts: list[int] = field(default_factory=list)
    status: int = 0
    code: str = ""
    ignores_if_match: bool = False
    ignores_range: bool = False
    trickle: int = 0
    busy: int = 0
    bad_part: int = 0
    together: threading.Barrier | None = None
    stall: threading.Event | None = None
    replaced_after: int | None = None
    requests: list[tuple[str, str, Mapping[str, str]]] = field(default_factory=list)
    uploaded: dict[str, bytes] = field(default_factory=dict)
    connections: int = 0

    @property
    def etag(self) -> str:
        return hashlib.md5(self.content, usedforsecurity=False).hexdigest()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    behaviour: Behaviour

    def setup(self) -> None:
        super().setup()
        self.behaviour.connections += 1

    def do_GET(self) -> None:
        b = self._record()
        if b.replaced_after is not None and len(b.requests) > b.replaced_after:
            b.content = b"replaced" * 100_000
        if b.status:
            self._error(b.status, b.code)
            return
        wanted = self.headers.get("If-Match", "").strip('"')
        if wanted and wanted != b.etag and not b.ignores_if_match:
            self._error(412, "PreconditionFailed")
            return
        first, last = 0, len(b.content) - 1
        if (ranged := self.headers.get("Range")) and not b.ignores_range:
            start, _, end = ranged.removeprefix("bytes=").partition("-")
            first, last = int(start), min(int(end or last), last)
        body = b.content[first : last + 1]
        self._headers(206 if ranged else 200, len(body))
        cut = b.cuts.pop(0) if b.cuts else len(body)
        with suppress(ConnectionError):
            self._send(body[:cut], b.trickle)
        if cut < len(body):
            if b.stall:
                b.stall.wait()
            self.close_connection = True
            self.connection.shutdown(2)

    def _send(self, body: bytes, trickle: int) -> None:
        for first in range(0, len(body), trickle or len(body)):
            self.wfile.write(body[first : first + (trickle or len(body))])
            if trickle:
                time.sleep(0.001)

    def do_PUT(self) -> None:
        b = self._record()
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if b.together:
            b.together.wait(timeout=20)
        if b.status or len(b.requests) <= b.busy:
            self._error(b.status or 503, b.code or "SlowDown")
            return
        if parse_qs(urlsplit(self.path).query).get("partNumber") == [str(b.bad_part)]:
            self._error(400, "BadDigest")
            return
        b.uploaded[self.path] = body
        self._headers(200, 0)

    def do_POST(self) -> None:
        """Begin or complete an upload in parts."""
        self._record()
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b"<Result><UploadId>upload</UploadId><ETag>tag</ETag></Result>"
        self._headers(200, len(body))
        self.wfile.write(body)

    def do_DELETE(self) -> None:
        self._record()
        self._headers(204, 0)

    def do_HEAD(self) -> None:
        b = self._record()
        self._headers(b.status or 200, len(b.content))

    def _record(self) -> Behaviour:
        self.behaviour.requests.append((self.command, self.path, dict(self.headers.items())))
        return self.behaviour

    def _headers(self, status: int, size: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(size))
        self.send_header("ETag", f'"{self.behaviour.etag}"')
        self.end_headers()

    def _error(self, status: int, code: str) -> None:
        body = f"<Error><Code>{code}</Code><Message>because</Message></Error>".encode()
        self._headers(status, len(body))
        self.wfile.write(body)

    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""


@contextmanager
def faulty_server(behaviour: Behaviour) -> Iterator[Any]:
    """A boto3 client of the server."""
    handler = type("Handler", (_Handler,), {"behaviour": behaviour})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        session = boto3.session.Session("key", "secret", region_name="us-east-1")
        config = client_config()
        yield session.client("s3", endpoint_url=f"http://127.0.0.1:{server.server_port}", config=config)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
