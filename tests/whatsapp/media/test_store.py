"""Where files lie: a directory, or a bucket of whatever speaks S3."""

from __future__ import annotations

import tempfile
import tracemalloc
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from django.core.files.storage import storages
from pytest_django.fixtures import Settings

from leadengine.errors import ConfigurationError, NotFound
from leadengine.settings import media_storage
from tests.outbound import at_once
from tests.whatsapp.bucket import Bucket, bucket_running, keep_at
from whatsapp.media import store


@pytest.fixture
def bucket() -> Iterator[Bucket]:
    with bucket_running() as running:
        yield running


KEY = "whatsapp/t/s/2026/11/m/abc.jpg"


def test_a_bucket_keeps_files_and_gives_parts_of_them(bucket: Bucket, settings: Settings) -> None:
    data = bytes(range(256)) * 1000
    keep_at(bucket.url, settings)
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
    store.remove(KEY)
    store.remove(KEY)  # what is gone is gone
    assert bucket.objects == {}


def test_a_bucket_reads_no_file_into_memory_and_has_one_client(bucket: Bucket, settings: Settings) -> None:
    """A client for each thread would cost 13 MB for each request."""
    keep_at(bucket.url, settings)
    storage: Any = storages["media"]
    first = storage.connection
    assert at_once(lambda: storage.connection, lambda: storage.connection) == [first, first]
    with tempfile.SpooledTemporaryFile(1024) as file:
        file.write(bytes(20_000_000))
        tracemalloc.start()
        store.save(KEY, file, 20_000_000)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert len(bucket.objects[f"/files/{KEY}"]) == 20_000_000
    # The server of the test, in this process, has it whole.
    assert peak < 30_000_000


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
    assert store.presigned(KEY, seconds=60, name="a.txt", mime_type="text/plain") is None
    store.remove(KEY)
    store.remove(KEY)
    assert not path.exists()
    with pytest.raises(NotFound):
        store.read("whatsapp/none", start=0, length=1)


@pytest.mark.parametrize(
    "url", ["", "/srv/media", "file://host/x", "file:///", "s3://endpoint/bucket", "s3://k:s@e", "ftp://x"]
)
def test_a_wrong_address_stops_the_start(url: str) -> None:
    with pytest.raises(ConfigurationError, match="MEDIA_STORAGE_URL"):
        media_storage(url)
