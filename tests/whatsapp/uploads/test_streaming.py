"""Uploads through the real web process: what it holds in memory, and what it never reads."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
from django.utils import timezone
from pytest_django.fixtures import Settings

from leadengine.accounts.scopes import service_scope, tenant_scope
from leadengine.accounts.services import create_api_key
from leadengine.embedded import serve
from tests.api import by_cookie
from tests.conftest import ROOT, World
from tests.outbound import accept, at_once, broker_running, conversation, reload, until
from tests.outbound import send as send_due
from tests.whatsapp.uploads.conftest import URL
from tests.whatsapp.uploads.files import JPEG
from tickets.models import MessageMedia
from whatsapp.services.uploads import sign_source

MIB = 1_048_576
SERVERS = [name for name in serve.SERVERS if not serve.missing_for(name)]


@dataclass
class Web:
    """A web process of ours."""

    process: subprocess.Popen[bytes]
    address: tuple[str, int]
    key: str
    root: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.address[1]}{URL}"

    def memory(self, field: str) -> int:
        """Bytes: VmRSS, what it holds now, or VmHWM, the most since `forget`."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(rf"{field}:\s+(\d+) kB", status)
        assert found
        return int(found[1]) * 1024

    def forget(self) -> None:
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    def post(self, data: Any, **fields: str) -> tuple[int, Any]:
        answer = requests.post(
            self.url, data=fields, files={"file": ("x", data)}, headers={"X-API-Key": self.key}, timeout=60
        )
        return answer.status_code, answer.json()

    def open_files(self) -> int:
        """How many files without a name it holds open: bodies and uploads that were put aside."""
        links = Path(f"/proc/{self.process.pid}/fd")
        temporary = str(self.root / "temporary")
        return sum(1 for fd in links.iterdir() if fd.is_symlink() and str(fd.readlink()).startswith(temporary))

    def bytes_left(self) -> list[Path]:
        return [p for name in ("media", "temporary") for p in (self.root / name).rglob("*") if p.is_file()]

    def connect(self, *headers: str, to: str = f"POST {URL}") -> socket.socket:
        """A connection on which a request has begun."""
        made = socket.create_connection(self.address, timeout=20)
        key = [f"X-API-Key: {self.key}"] if self.key else []
        lines = [f"{to} HTTP/1.1", "Host: 127.0.0.1", *key, *headers, "", ""]
        made.sendall("\r\n".join(lines).encode())
        return made


def answer_on(connection: socket.socket) -> tuple[int, Any]:
    """(status, JSON) of the answer that a connection gives."""
    received = b""
    while b"\r\n\r\n" not in received:
        part = connection.recv(65_536)
        assert part, received
        received += part
    head, _, body = received.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
    assert length, head
    while len(body) < int(length[1]):
        body += connection.recv(65_536)
    return int(head[9:12]), json.loads(body)


@pytest.fixture(scope="module", params=SERVERS)
def process(request: Any, django_db_setup: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    """One process for all tests of this file: a start takes seconds."""
    root = tmp_path_factory.mktemp("web")
    for name in ("temporary", "media"):
        (root / name).mkdir()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        process = subprocess.Popen(
            [sys.executable, "-m", "leadengine.embedded.serve", "--server", request.param, "--fd",
             str(listening.fileno())],
            cwd=ROOT, pass_fds=[listening.fileno()],
            env={
                **os.environ, "LEADENGINE_PROCESS": "web", "MEDIA_STORAGE_URL": f"file://{root}/media",
                "TMPDIR": str(root / "temporary"), "LEADENGINE_DATA_DIR": str(root / "data"),
            },
        )  # fmt: skip
        made = Web(process, listening.getsockname(), "", root)
        try:
            yield made
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.fixture
def web(process: Web, committed_world: World) -> Web:
    with service_scope("test"):
        process.key, _ = create_api_key(owner=committed_world.agent, tenant_id=committed_world.ipe.pk, name="test")
    for path in process.bytes_left():
        path.unlink()
    return process


def test_outbound_21_four_large_uploads_at_once_and_200_mb_that_are_not_read(web: Web) -> None:
    large = b"%PDF-1.7\n" + os.urandom(16 * MIB - 9)
    assert web.post(large[: 2 * MIB])[0] == 201  # all is imported and connected by now
    before = web.memory("VmRSS")
    web.forget()
    assert [status for status, _ in at_once(*[lambda: web.post(large)] * 4)] == [201] * 4
    grown = web.memory("VmHWM") - before
    assert grown < 32 * MIB, f"{grown / MIB:.1f} MiB more"
    assert len(web.bytes_left()) == 5

    # By its length alone, before a byte of it was sent.
    kind = "Content-Type: multipart/form-data; boundary=x"
    with web.connect(f"Content-Length: {200 * MIB}", kind) as connection:
        status, body = answer_on(connection)
        assert (status, body["error"]["code"]) == (413, "FILE_TOO_LARGE")
        assert body["error"]["details"] == {"maxBytes": 16 * MIB, "size": 200 * MIB, "mediaType": "document"}
    # Somebody who sends it all nevertheless gets to read the answer.
    web.forget()
    with web.connect(f"Content-Length: {200 * MIB}", kind) as connection:
        for _ in range(200):
            connection.sendall(bytes(MIB))
        status, body = answer_on(connection)
        assert (status, body["error"]["code"]) == (413, "FILE_TOO_LARGE")
    # One that does not say how large it is ends where the limit is.
    with web.connect("Transfer-Encoding: chunked", kind) as connection:
        start = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        connection.sendall(b"%x\r\n%s\r\n" % (len(start), start))
        part = b"10000\r\n" + bytes(65_536) + b"\r\n"
        try:
            for _ in range(16 * 16 + 8):
                connection.sendall(part)
        except OSError:
            pytest.fail("it hung up before it answered")
        status, body = answer_on(connection)
        assert (status, body["error"]["code"]) == (413, "FILE_TOO_LARGE")
    assert web.memory("VmHWM") - before < 40 * MIB
    until(lambda: web.open_files() == 0)
    assert len(web.bytes_left()) == 5
    assert web.post(large[: 2 * MIB])[0] == 201


def test_a_browser_is_told_the_same(web: Web, committed_world: World) -> None:
    """The check of its token reads the form before anybody looks at the size."""
    cookies, token = by_cookie(committed_world.agent).cookies, "t" * 32
    web.key = ""
    cookie = f"Cookie: sessionid={cookies['sessionid'].value}; csrftoken={token}"
    kind = "Content-Type: multipart/form-data; boundary=x"
    with web.connect(cookie, f"X-CSRFToken: {token}", kind, f"Content-Length: {200 * MIB}") as connection:
        status, body = answer_on(connection)
    assert (status, body["error"]["code"]) == (413, "FILE_TOO_LARGE")


def test_an_upload_that_breaks_off_leaves_nothing(web: Web) -> None:
    kind = "Content-Type: multipart/form-data; boundary=x"
    with web.connect("Content-Length: 9000000", kind) as connection:
        start = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.pdf"\r\n\r\n%PDF-1.7\n'
        connection.sendall(start + bytes(4_000_000))
        until(lambda: web.open_files() == 1)
    until(lambda: web.open_files() == 0)
    assert web.bytes_left() == []
    # Nothing of it stands in the way of others, and one connection serves several requests.
    with requests.Session() as session:
        for data in (b"um", b"", b"dois"):
            answer = session.post(web.url, files={"file": ("a", data)}, headers={"X-API-Key": web.key}, timeout=20)
            assert answer.status_code == (201 if data else 400)
        assert session.get(web.url, headers={"X-API-Key": web.key}, timeout=20).status_code == 405


def test_a_form_without_a_length_is_read(web: Web) -> None:
    def form() -> Iterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\n'
        yield from [b"ol\xc3\xa1\n"] * 50_000
        yield b"\r\n--x--\r\n"

    headers = {"X-API-Key": web.key, "Content-Type": "multipart/form-data; boundary=x"}
    answer = requests.post(web.url, data=form(), headers=headers, timeout=20)
    assert (answer.status_code, answer.json()["size"]) == (201, 250_000)


def test_a_message_brings_its_upload_to_the_phone(web: Web, committed_world: World, settings: Settings) -> None:
    """Each attempt carries a link of its own: the one of an hour ago would be too old."""
    settings.PUBLIC_BASE_URL = web.url.removesuffix(URL)
    with broker_running() as broker:
        settings.WHATSAPP_BROKER_URL = broker.url
        ticket = conversation(committed_world)
        _, upload = web.post(JPEG, type="image")
        payload = {"type": "image", "uploadId": upload["uploadId"], "caption": "olha", "fileName": "tênis.jpg"}
        message = accept(committed_world, ticket, payload=payload).message
        send_due(committed_world)
        assert reload(message).status == "SENT"
        (sent,) = broker.sent()
        assert sent["media"] == {"mimetype": "image/jpeg", "fileName": "tênis.jpg", "size": len(JPEG)}
        with tenant_scope(committed_world.ipe.pk):
            source = MessageMedia.objects.get(message=message).source
    now = timezone.now()
    assert sign_source(source, now=now) != sign_source(source, now=now + timedelta(hours=1))
    assert "sig=" not in str(source)


def test_who_is_not_known_is_told_so_before_the_body(web: Web) -> None:
    web.key = "wrong"
    with web.connect(f"Content-Length: {200 * MIB}", "Content-Type: multipart/form-data; boundary=x") as connection:
        status, body = answer_on(connection)
    assert (status, body["error"]["code"]) == (401, "UNAUTHORIZED")


@pytest.mark.parametrize(
    ("to", "status", "code"),
    [
        ("POST /login/", 413, "PAYLOAD_TOO_LARGE"), ("PATCH /api/tickets/x", 413, "PAYLOAD_TOO_LARGE"),
        ("GET /", 413, "PAYLOAD_TOO_LARGE"), ("POST /api/whatsapp/%75ploads", 401, "UNAUTHORIZED"),
        ("POST /message/x/media", 401, None), ("POST /api/webhooks/whatsapp", None, None),
    ],
)  # fmt: skip
def test_no_address_takes_a_large_body_from_nobody(web: Web, to: str, status: int | None, code: str | None) -> None:
    web.key = ""
    part = b"10000\r\n" + bytes(65_536) + b"\r\n"
    for kind in (f"Content-Length: {200 * MIB}", "Transfer-Encoding: chunked"):
        with web.connect(kind, "Content-Type: multipart/form-data; boundary=x", to=to) as connection:
            if "chunked" in kind:
                for _ in range(34 * 16):
                    connection.sendall(part)
                assert web.open_files() <= 1
            told, body = answer_on(connection)
            assert told == status or (status is None and told in {401, 413, 503}), body
            assert code in {None, body["error"]["code"]}
    until(lambda: web.open_files() == 0)


def test_small_bodies_without_a_length_are_read_everywhere(web: Web) -> None:
    name = {"X-API-Key": web.key, "Content-Type": "application/json"}
    address = web.url.removesuffix(URL) + "/api/auth/login"
    told = [
        requests.post(address, data=body, headers=name, timeout=20).json()["error"]["details"]
        for body in (iter([b'{"email"', b': "x"}']), b'{"email": "x"}')
    ]
    assert told[0] == told[1] != {}


@pytest.mark.parametrize("size", [100, 3 * MIB, 21 * MIB])
def test_a_webhook_of_any_size_reaches_its_door(web: Web, settings: Settings, size: int) -> None:
    address = web.url.removesuffix(URL) + "/api/webhooks/whatsapp"
    key = {"X-API-Key": settings.WHATSAPP_WEBHOOK_API_KEY[0], "Content-Type": "application/json"}
    body = json.dumps([" " * size]).encode()
    for data in (body, iter([body[:1000], body[1000:]])):
        answer = requests.post(address, data=data, headers=key, timeout=20)
        assert answer.status_code == (413 if size > 20 * MIB else 204), answer.text
