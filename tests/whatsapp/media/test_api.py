"""GET and retry of a file: who may, what they get, and how a browser is told to treat it."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.test import AsyncClient, Client
from django.utils import timezone
from hypothesis import given
from hypothesis import strategies as st

from leadengine import links
from leadengine.accounts.scopes import service_scope
from tests.api import by_cookie, by_key, refused, send
from tests.whatsapp.media.conftest import PICTURE, Files, attached, picture
from tickets.models import Message, MessageMedia
from whatsapp.media.ranges import Unsatisfiable, read_range
from whatsapp.services.media import fetch_due
from whatsapp.simulator.media import ASSETS


def address(media: MessageMedia, more: str = "") -> str:
    return f"/api/integrations/whatsapp/media/{media.pk}{more}"


def get(client: Client, url: str, **headers: str) -> tuple[int, Any, bytes]:
    """(status, headers, body)."""
    answer: Any = client.get(url, headers={name.replace("_", "-"): value for name, value in headers.items()})
    body = b"".join(answer.streaming_content) if answer.streaming else answer.content
    return answer.status_code, answer.headers, body


@pytest.fixture
def media(files: Files) -> MessageMedia:
    files.sends(picture())
    assert fetch_due() == 1
    return files.one()


@pytest.mark.parametrize("by", [by_cookie, by_key])
def test_whoever_sees_the_ticket_gets_the_file(files: Files, media: MessageMedia, by: Any) -> None:
    for person in (files.world.agent, files.world.supervisor):
        status, headers, body = get(by(person), address(media))
        assert (status, body) == (200, PICTURE)
    assert headers["Content-Type"] == "image/jpeg"
    assert headers["Content-Length"] == str(len(PICTURE))
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Content-Security-Policy"] == "default-src 'none'; sandbox"
    assert headers["Content-Disposition"].startswith("inline; filename=")
    assert headers["Cache-Control"].startswith("private")


@pytest.mark.parametrize("by", [by_cookie, by_key])
def test_nobody_else_does(files: Files, media: MessageMedia, by: Any) -> None:
    for method, url in (("get", address(media)), ("post", address(media, "/retry"))):
        assert refused(send(by(files.world.outsider), method, url)) == (404, "NOT_FOUND")
        assert refused(send(Client(), method, url)) == (401, "UNAUTHORIZED")
        nowhere = url.replace(str(media.pk), str(uuid4()))
        assert refused(send(by(files.world.agent), method, nowhere)) == (404, "NOT_FOUND")
    with service_scope("test"):
        ticket = Message.objects.select_related("ticket").get(pk=media.message_id).ticket
        type(ticket).objects.filter(pk=ticket.pk).update(assignee=files.world.agent2, status="ASSIGNED")
    assert refused(send(by(files.world.agent), "get", address(media))) == (404, "NOT_FOUND")
    assert get(by(files.world.supervisor), address(media))[0] == 200


def test_a_deleted_message_shows_its_file_to_supervisors_only(files: Files, media: MessageMedia) -> None:
    with service_scope("test"):
        Message.objects.update(revoked_at=timezone.now())
    assert refused(send(by_cookie(files.world.agent), "get", address(media))) == (404, "NOT_FOUND")
    assert get(by_cookie(files.world.supervisor), address(media))[0] == 200


def test_ranges(files: Files, media: MessageMedia) -> None:
    client, size = by_cookie(files.world.agent), len(PICTURE)
    for wanted, start, end in (
        ("bytes=0-9", 0, 10), ("bytes=5-", 5, size), ("bytes=-7", size - 7, size), (f"bytes=10-{size * 9}", 10, size),
    ):  # fmt: skip
        status, headers, body = get(client, address(media), Range=wanted)
        assert (status, body) == (206, PICTURE[start:end]), wanted
        assert headers["Content-Range"] == f"bytes {start}-{end - 1}/{size}"
        assert headers["Content-Length"] == str(end - start)
    for wanted in ("bytes=0-1,4-5", "lines=1-2", "bytes=9-3", "bytes=-", "x"):
        assert get(client, address(media), Range=wanted)[0] == 200, wanted
    status, headers, body = get(client, address(media), Range=f"bytes={size}-")
    assert (status, headers["Content-Range"], body) == (416, f"bytes */{size}", b"")
    etag = get(client, address(media))[1]["ETag"]
    assert get(client, address(media), If_None_Match=etag)[0] == 304
    assert get(client, address(media), Range="bytes=0-1", If_Range=etag)[0] == 206
    assert get(client, address(media), Range="bytes=0-1", If_Range='"old"')[0] == 200
    answer = client.head(address(media))
    assert (answer.status_code, answer.headers["Content-Length"], answer.content) == (200, str(size), b"")


@given(header=st.one_of(st.text(max_size=20), st.from_regex(r"bytes=\d{0,4}-\d{0,4}")), size=st.integers(0, 300))
def test_a_range_never_leaves_the_file(header: str, size: int) -> None:
    try:
        found = read_range(header, size)
    except Unsatisfiable:
        return
    if found:
        assert found[0] >= 0 < found[1]
        assert sum(found) <= size


def test_under_asgi_the_file_is_streamed(files: Files, media: MessageMedia) -> None:
    async def run() -> bytes:
        client = AsyncClient()
        await client.aforce_login(files.world.agent)
        answer: Any = await client.get(address(media), headers={"Range": "bytes=100-70000"})
        assert answer.is_async
        return b"".join([part async for part in answer.streaming_content])

    assert asyncio.run(run()) == PICTURE[100:70001]


@pytest.mark.parametrize(
    ("body", "kind", "disposition"),
    [
        (attached("audio", (ASSETS / "audio-pedido.ogg").read_bytes()), "audio/ogg", "inline"),
        (attached("document", (ASSETS / "pedido.pdf").read_bytes(), fileName="a.pdf"), "application/pdf", "inline"),
        (attached("document", b"<svg/>", fileName="../../x.svg"), "application/octet-stream", "attachment"),
        (attached("document", b"<script>", fileName="x.html", mimetype="text/html"), "application/octet-stream",
         "attachment"),
        (attached("document", b"PK\x03\x04" + bytes(60), fileName="a.zip"), "application/octet-stream", "attachment"),
    ],
)  # fmt: skip
def test_only_what_is_harmless_is_shown_in_place(
    files: Files, body: dict[str, Any], kind: str, disposition: str
) -> None:
    files.sends(body)
    fetch_due()
    status, headers, _ = get(by_cookie(files.world.agent), address(files.one()))
    assert (status, headers["Content-Type"]) == (200, kind)
    shown, _, name = headers["Content-Disposition"].partition("; ")
    assert (shown, headers["X-Content-Type-Options"]) == (disposition, "nosniff")
    assert "/" not in name and ".." not in name


def test_what_is_not_there_yet_says_so(files: Files) -> None:
    files.broker.behave(cdn={"failSeconds": 60})
    files.sends(picture())
    client, media = by_cookie(files.world.agent), files.one()
    for state in ("pending", "downloading", "failed"):
        with service_scope("test"):
            MessageMedia.objects.update(state=state)
        status, body = send(client, "get", address(media))
        assert refused((status, body)) == (409, "MEDIA_NOT_READY")
        assert body["error"]["details"]["state"] == state
    with service_scope("test"):
        MessageMedia.objects.update(state="expired")
    assert refused(send(client, "get", address(media))) == (410, "MEDIA_EXPIRED")


def test_a_file_that_the_store_has_lost(files: Files, media: MessageMedia) -> None:
    (files.root / media.storage_key).unlink()
    assert refused(send(by_cookie(files.world.agent), "get", address(media))) == (404, "NOT_FOUND")


@pytest.mark.parametrize("state", ["failed", "expired"])
def test_retry_puts_it_back_and_it_is_fetched(files: Files, state: str) -> None:
    files.broker.behave(cdn={"gone": True})
    files.sends(picture())
    assert fetch_due() == 1
    with service_scope("test"):
        MessageMedia.objects.update(state=state, reason="x", attempts=8)
    version = files.one().message.version
    files.broker.behave()
    status, body = send(by_cookie(files.world.agent), "post", address(files.one(), "/retry"))
    assert (status, body["data"]["state"], body["data"]["reason"]) == (202, "pending", "")
    assert files.one().message.version == version + 1
    assert fetch_due() == 1
    assert files.one().state == "ready"
    assert refused(send(by_cookie(files.world.agent), "post", address(files.one(), "/retry"))) == (409, "MEDIA_READY")


def test_a_link_opens_one_file_for_its_time(files: Files, media: MessageMedia) -> None:
    ticket = media.message.ticket_id
    _, page = send(by_key(files.world.agent), "get", f"/api/tickets/{ticket}/messages")
    (shown,) = [item["message"]["media"] for item in page["data"] if item["kind"] == "message"]
    assert shown["id"] == str(media.pk)
    assert "mediaKey" not in str(page) and ".enc" not in str(page)
    assert get(Client(), shown["url"])[0::2] == (200, PICTURE)
    assert get(Client(), shown["url"], Range="bytes=0-1")[0] == 206
    assert refused(send(Client(), "get", shown["url"][:-1])) == (404, "NOT_FOUND")
    assert refused(send(Client(), "get", address(media, "?exp=99999999999&sig=x"))) == (404, "NOT_FOUND")
    other = shown["url"].replace(str(media.pk), str(uuid4()))
    assert refused(send(Client(), "get", other)) == (404, "NOT_FOUND")
    old = links.sign("media", media.pk, now=datetime.now(UTC) - timedelta(seconds=901))
    assert refused(send(Client(), "get", address(media, f"?{old}"))) == (410, "LINK_EXPIRED")
    wrong = links.sign("upload", media.pk, now=datetime.now(UTC))
    assert refused(send(Client(), "get", address(media, f"?{wrong}"))) == (404, "NOT_FOUND")
    with service_scope("test"):
        Message.objects.update(revoked_at=timezone.now())
    assert refused(send(Client(), "get", shown["url"])) == (404, "NOT_FOUND")
