"""Show 14 with real workers: one is killed amid a download, one is told to end."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone

from leadengine.accounts.scopes import service_scope
from leadengine.celery import SENDING, publish
from tests.operations.conftest import Process, command
from tests.outbound import until
from tests.whatsapp.media.conftest import Files, picture
from tickets.models import MessageMedia
from whatsapp.services.media import fetch_due
from whatsapp.tasks import fetch_media


@contextmanager
def dripping() -> Iterator[tuple[str, threading.Event]]:
    """A media server that sends a byte now and then and never ends; the event says that somebody listens."""
    asked, ended = threading.Event(), threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "90000000")
            self.end_headers()
            asked.set()
            try:
                while not ended.wait(0.05):
                    self.wfile.write(b"x" * 70_000)
            except OSError:
                pass  # the worker is gone

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=[0.02])
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}", asked
    finally:
        ended.set()
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def fetching(files: Files, tmp_path: Path) -> Iterator[tuple[Process, dict[str, Any]]]:
    """A worker amid the download of the one file; the file's right source."""
    files.sends(picture())
    source = files.one().source
    with dripping() as (host, asked):
        point(files, {**source, "url": f"http://{host}/x.enc"})
        allowed = {"WHATSAPP_MEDIA_ALLOWED_HOSTS": host, "MEDIA_STORAGE_URL": f"file://{tmp_path}/other"}
        words = ("worker", "--name", "media-1", "--queues", SENDING)
        with command(*words, process="sender", log=tmp_path / "worker.log", **allowed) as worker:
            publish(fetch_media)
            assert asked.wait(30), worker.said()
            yield worker, source


def point(files: Files, source: dict[str, Any]) -> None:
    with service_scope("test"):
        MessageMedia.objects.filter(pk=files.one().pk).update(source=source)


def test_inbound_14_a_worker_killed_amid_a_download_is_taken_over_after_its_lease(files: Files, tmp_path: Path) -> None:
    with fetching(files, tmp_path) as (worker, source):
        worker.popen.kill()
        worker.popen.wait()
        media = files.one()
        assert media.state == "downloading"
        assert media.lease_until is not None
        assert 100 < (media.lease_until - timezone.now()).total_seconds() <= 120
        point(files, source)
        assert fetch_due() == 0, "the lease holds"
        files.due_now()
        assert fetch_due() == 1
    media = files.one()
    assert (media.state, media.attempts, media.lease_until) == ("ready", 2, None)


def test_a_worker_that_is_told_to_end_puts_it_back(files: Files, tmp_path: Path) -> None:
    with fetching(files, tmp_path) as (worker, source):
        worker.popen.terminate()
        until(lambda: files.one().state == "pending", 15)
        assert worker.popen.wait(20) == 0
        assert files.one().attempts == 0
        point(files, source)
        assert fetch_due() == 1
    assert files.one().state == "ready"


@pytest.mark.django_db(transaction=True)
def test_the_task_finds_nothing_to_do_twice() -> None:
    assert fetch_media() == 0
    assert fetch_media() == 0
