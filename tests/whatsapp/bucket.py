"""A server that speaks as much S3 as we use; it refuses what is not signed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from pytest_django.fixtures import Settings

from leadengine.settings import media_storage


class Bucket:
    """`objects` by their path; `sent` counts the bytes of answers. `lists` False: it does not say what is missing."""

    def __init__(self) -> None:
        self.lists = True
        self.objects: dict[str, bytes] = {}
        self.sent = 0
        bucket = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name.replace("_", "-"), value)
                self.end_headers()
                if self.command != "HEAD":
                    bucket.sent += len(body)
                    self.wfile.write(body)

            def key(self) -> str:
                parts = urlsplit(self.path)
                self.asked = parse_qs(parts.query)
                by_header = (self.headers["Authorization"] or "").startswith("AWS4-HMAC-SHA256 Credential=key/")
                assert by_header or "X-Amz-Signature" in self.asked, "signed"
                return unquote(parts.path)

            def do_PUT(self) -> None:
                bucket.objects[self.key()] = self.rfile.read(int(self.headers["Content-Length"]))
                self.answer(200, ETag='"x"')

            def do_DELETE(self) -> None:
                bucket.objects.pop(self.key(), None)
                self.answer(204)

            def do_HEAD(self) -> None:
                self.do_GET()

            def do_GET(self) -> None:
                data = bucket.objects.get(self.key())
                told = {
                    name: self.asked[asked][0]
                    for name, asked in (
                        ("Content_Type", "response-content-type"),
                        ("Content_Disposition", "response-content-disposition"),
                    )
                    if asked in self.asked
                }
                if data is None and not bucket.lists:
                    self.answer(403, b"<Error><Code>AccessDenied</Code></Error>")
                elif data is None:
                    self.answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
                elif wanted := self.headers["Range"]:
                    first, last = wanted.removeprefix("bytes=").split("-")
                    self.answer(206, data[int(first) : int(last) + 1], ETag='"x"', **told)
                else:
                    self.answer(200, data, ETag='"x"', Last_Modified="Sat, 21 Nov 2026 10:00:00 GMT", **told)

            def log_message(self, *_: Any) -> None:
                """Quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self.server.server_address[1]}"
        self.url = f"s3://key:se%2Fcret@{self.address}/files?tls=false"


@contextmanager
def bucket_running() -> Iterator[Bucket]:
    """A bucket, served by a thread of its own."""
    running = Bucket()
    thread = threading.Thread(target=running.server.serve_forever, args=[0.02])
    thread.start()
    try:
        yield running
    finally:
        running.server.shutdown()
        thread.join()
        running.server.server_close()


def keep_at(url: str, settings: Settings) -> None:
    """Let MEDIA_STORAGE_URL be this."""
    settings.STORAGES = {**settings.STORAGES, "media": media_storage(url)}
