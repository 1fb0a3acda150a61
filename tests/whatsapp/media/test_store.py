"""Where files lie: a directory, or a bucket of whatever speaks S3."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from pytest_django.fixtures import Settings

from leadengine.errors import ConfigurationError, NotFound
from leadengine.settings import media_storage
from whatsapp.media import store


class Bucket:
    """A server that speaks as much S3 as we use; it refuses what is not signed."""

    def __init__(self) -> None:
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
                assert self.headers["Authorization"].startswith("AWS4-HMAC-SHA256 Credential=key/"), "signed"
                return unquote(urlsplit(self.path).path)

            def do_PUT(self) -> None:
                bucket.objects[self.key()] = self.rfile.read(int(self.headers["Content-Length"]))
                self.answer(200, ETag='"x"')

            def do_HEAD(self) -> None:
                self.do_GET()

            def do_GET(self) -> None:
                data = bucket.objects.get(self.key())
                if data is None:
                    self.answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
                elif wanted := self.headers["Range"]:
                    first, last = wanted.removeprefix("bytes=").split("-")
                    self.answer(206, data[int(first) : int(last) + 1], ETag='"x"')
                else:
                    self.answer(200, data, ETag='"x"', Last_Modified="Sat, 21 Nov 2026 10:00:00 GMT")

            def log_message(self, *_: Any) -> None:
                """Quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self.server.server_address[1]}"


def keep_at(url: str, settings: Settings) -> None:
    settings.STORAGES = {**settings.STORAGES, "media": media_storage(url)}


@pytest.fixture
def bucket() -> Iterator[Bucket]:
    running = Bucket()
    thread = threading.Thread(target=running.server.serve_forever, args=[0.02])
    thread.start()
    yield running
    running.server.shutdown()
    thread.join()
    running.server.server_close()


KEY = "whatsapp/t/s/2026/11/m/abc.jpg"


def test_a_bucket_keeps_files_and_gives_parts_of_them(bucket: Bucket, settings: Settings) -> None:
    data = bytes(range(256)) * 1000
    keep_at(f"s3://key:se%2Fcret@{bucket.address}/files?tls=false", settings)
    store.save(KEY, BytesIO(data), len(data))
    assert bucket.objects == {f"/files/{KEY}": data}
    bucket.objects[f"/files/{KEY}"] = b"short"
    store.save(KEY, BytesIO(data), len(data))  # half a file is written again
    bucket.sent = 0
    assert b"".join(store.read(KEY, start=0, length=len(data))) == data
    assert b"".join(store.read(KEY, start=300, length=70_000)) == data[300:70_300]
    assert list(store.read(KEY, start=0, length=0)) == []
    assert bucket.sent == len(data) + 70_000, "a part costs a part"
    with pytest.raises(NotFound):
        store.read("whatsapp/none", start=0, length=1)


def test_a_bucket_that_is_away_is_a_failure_that_is_named(settings: Settings) -> None:
    keep_at("s3://key:secret@127.0.0.1:9/files?tls=false", settings)
    with pytest.raises(store.FAILURES):
        store.save(KEY, BytesIO(b"x"), 1)


def test_a_directory_does_the_same(tmp_path: Path, settings: Settings) -> None:
    keep_at(f"file://{tmp_path}/media", settings)
    store.save(KEY, BytesIO(b"0123456789"), 10)
    path = tmp_path / "media" / KEY
    assert path.read_bytes() == b"0123456789"
    assert path.stat().st_mode & 0o007 == 0, "not for everybody"
    path.write_bytes(b"012")
    store.save(KEY, BytesIO(b"0123456789"), 10)
    assert b"".join(store.read(KEY, start=3, length=4)) == b"3456"
    with pytest.raises(NotFound):
        store.read("whatsapp/none", start=0, length=1)


@pytest.mark.parametrize(
    "url", ["", "/srv/media", "file://host/x", "file:///", "s3://endpoint/bucket", "s3://k:s@e", "ftp://x"]
)
def test_a_wrong_address_stops_the_start(url: str) -> None:
    with pytest.raises(ConfigurationError, match="MEDIA_STORAGE_URL"):
        media_storage(url)
