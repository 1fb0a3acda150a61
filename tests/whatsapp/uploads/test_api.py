"""POST, GET and DELETE of uploads, and their links: shows 21, 22 and 24."""

from __future__ import annotations

import re
import socket
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any
from uuid import uuid4

import pytest
import requests
from django.conf import settings as configured
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.utils import timezone
from pytest_django.fixtures import Settings

from leadengine import links, metrics
from leadengine.accounts.scopes import service_scope
from leadengine.accounts.services import create_api_key
from leads.models import Contact
from tests.api import by_cookie, by_key, refused, send
from tests.tickets.desk import arrive, give
from tests.whatsapp.bucket import bucket_running, keep_at
from tests.whatsapp.uploads.conftest import URL, Desk
from tests.whatsapp.uploads.files import EXE, HTML, JPEG, PDF, PNG, SVG, TEST_VIRUS, clamd, zipped
from tickets.models import Ticket
from whatsapp.api.uploads import PER_MINUTE
from whatsapp.models import Upload, WhatsAppSession
from whatsapp.services.persistence import saving

MIB = 1_048_576
SEED = {"uploadId", "resourceUrl", "expiresAt", "mediaType", "size"}
MORE = {
    "mediaUrl", "expiresInSeconds", "mimeType", "mediaMimeType", "fileName", "mediaFileName", "mediaSize", "caption",
    "ticketId", "contactId", "sha256", "scanStatus",
}  # fmt: skip


def get(url: str, **headers: str) -> tuple[int, Any, bytes]:
    """What whoever has a link gets: (status, headers, body)."""
    answer: Any = Client().get(url, headers=headers)
    body = b"".join(answer.streaming_content) if answer.streaming else answer.content
    return answer.status_code, answer.headers, body


@pytest.mark.parametrize("by", [by_cookie, by_key])
def test_outbound_21_an_upload_answers_its_fields_twice(desk: Desk, by: Any) -> None:
    world = desk.world
    ticket = give(arrive(world), world.agent)
    status, body = desk.post(
        PNG, "nota fiscal.pdf", client=by(world.agent), caption="olha", ticketId=str(ticket.pk),
        contactId=str(ticket.contact_id), type="IMAGE",
    )  # fmt: skip
    assert status == 201
    data = body.pop("data")
    assert body == data
    assert set(body) == SEED | MORE | {"state"}
    assert (body["mediaType"], body["mimeType"], body["mediaMimeType"]) == ("image", "image/png", "image/png")
    assert (body["size"], body["mediaSize"]) == (len(PNG), len(PNG))
    assert (body["fileName"], body["mediaFileName"], body["caption"]) == ("nota fiscal.pdf", "nota fiscal.pdf", "olha")
    assert (body["ticketId"], body["contactId"]) == (str(ticket.pk), str(ticket.contact_id))
    assert (body["sha256"], body["scanStatus"]) == (sha256(PNG).hexdigest(), "CLEAN")
    assert body["mediaUrl"] == body["resourceUrl"] and body["expiresInSeconds"] == 900
    until = datetime.fromisoformat(body["expiresAt"]) - timezone.now()
    assert timedelta(seconds=890) < until <= timedelta(seconds=900)
    upload = desk.row(body["uploadId"])
    key = f"whatsapp/{world.ipe.pk}/{upload.created_at:%Y/%m}/{upload.pk}.png"
    assert desk.stored() == {key: PNG}
    facts = {"size": len(PNG), "mime": "image/png", "sha256": body["sha256"]}
    assert desk.audited() == [("upload.created", world.agent.pk, facts)]


@pytest.mark.parametrize(
    ("data", "name", "status", "code"),
    [
        (EXE, "foto.jpg", 415, "UNSUPPORTED_MEDIA_TYPE"), (HTML, "foto.jpg", 415, "UNSUPPORTED_MEDIA_TYPE"),
        (SVG, "foto.svg", 415, "UNSUPPORTED_MEDIA_TYPE"), (zipped(a__exe="x"), "a.zip", 415, "UNSUPPORTED_MEDIA_TYPE"),
        (TEST_VIRUS, "eicar.txt", 422, "FILE_INFECTED"), (zipped(eicar__com=TEST_VIRUS), "a.zip", 422, "FILE_INFECTED"),
        (b"", "vazio.txt", 400, "FILE_EMPTY"),
        (b"%PDF-1.7\n" + bytes(16 * MIB - 8), "grande.pdf", 413, "FILE_TOO_LARGE"),
        (JPEG + bytes(5 * MIB), "grande.jpg", 413, "FILE_TOO_LARGE"),
    ],
)  # fmt: skip
def test_outbound_21_what_is_refused_leaves_no_bytes(
    desk: Desk, data: bytes, name: str, status: int, code: str
) -> None:
    answer = desk.post(data, name)
    assert refused(answer) == (status, code)
    assert desk.stored() == {}
    with service_scope("test"):
        assert not Upload.objects.exists()
    ((action, actor, facts),) = desk.audited()
    assert action == ("upload.infected" if status == 422 else "upload.rejected")
    assert (actor, facts["size"], facts["code"]) == (desk.world.agent.pk, len(data), code)
    assert name not in str(facts)
    if code == "FILE_TOO_LARGE":
        most = {"grande.pdf": (16 * MIB, "document"), "grande.jpg": (5 * MIB, "image")}[name]
        details = answer[1]["error"]["details"]
        assert (details["maxBytes"], details["mediaType"]) == most and details["size"] == len(data)


def test_outbound_21_the_largest_file_and_a_byte_more(desk: Desk) -> None:
    assert desk.post(b"%PDF-1.7\n" + bytes(16 * MIB - 9), type="document")[0] == 201
    # One that passes even what a form needs beside its file is refused by its length alone.
    status, body = desk.post(b"%PDF-1.7\n" + bytes(17 * MIB))
    assert refused((status, body)) == (413, "FILE_TOO_LARGE")
    assert body["error"]["details"]["maxBytes"] == 16 * MIB
    assert len(desk.stored()) == 1


def test_a_type_that_is_said_must_be_right(desk: Desk) -> None:
    status, body = desk.post(PDF, "a.png", type="image")
    assert refused((status, body)) == (415, "MEDIA_TYPE_MISMATCH")
    details = body["error"]["details"]
    assert (details["declared"], details["detected"]) == ("image", "document")
    status, body = desk.post(JPEG + bytes(5 * MIB), "a.jpg", type="document")  # any file may go as a document
    assert (status, body["mediaType"], body["mimeType"]) == (201, "document", "image/jpeg")


def test_the_limit_is_the_smaller_of_ours_and_the_lines(desk: Desk, settings: Settings) -> None:
    ticket = give(arrive(desk.world), desk.world.agent)
    settings.UPLOAD_MAX_BYTES = {**settings.UPLOAD_MAX_BYTES, "image": 10 * MIB}
    with service_scope("test"), saving():
        WhatsAppSession.objects.filter(pk=desk.world.line.pk).update(capabilities={"mediaMaxBytes": {"image": 1000}})
    assert desk.post(JPEG, ticketId=str(ticket.pk))[1]["error"]["details"]["maxBytes"] == 1000
    assert desk.post(JPEG)[0] == 201


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"type": "sticker"}, "type"), ({"ticketId": "x"}, "ticketId"), ({"caption": "x" * 1025}, "caption"),
        ({"other": "x"}, "other"),
    ],
)  # fmt: skip
def test_a_wrong_field_is_named(desk: Desk, fields: dict[str, Any], field: str) -> None:
    status, body = desk.post(PNG, **fields)
    assert refused((status, body)) == (400, "VALIDATION_ERROR")
    assert [one["field"] for one in body["error"]["details"]["errors"]] == [field]
    assert desk.stored() == {}


def test_a_request_without_a_file_and_one_that_is_cut_off(desk: Desk) -> None:
    client = by_cookie(desk.world.agent)
    for fields in ({}, {"caption": "x"}, {"other": SimpleUploadedFile("x", PNG)}):
        answer = client.post(URL, fields)
        assert refused((answer.status_code, answer.json())) == (400, "FILE_REQUIRED"), fields
    answer = client.post(URL, b"nonsense", content_type="multipart/form-data")
    assert refused((answer.status_code, answer.json())) == (400, "FILE_UPLOAD_ERROR")
    assert refused(send(client, "post", URL, {"file": "x"})) == (415, "UNSUPPORTED_MEDIA_TYPE")
    assert desk.stored() == {}


def test_a_second_file_changes_nothing_about_the_first(desk: Desk) -> None:
    client = by_cookie(desk.world.agent)

    def part(name: str, data: bytes) -> bytes:
        start = f'--x\r\nContent-Disposition: form-data; name="{name}"; filename="a"\r\n\r\n'
        return start.encode() + data + b"\r\n"

    def post(*parts: bytes, end: bytes = b"--x--\r\n") -> tuple[int, Any]:
        answer = client.post(URL, b"".join(parts) + end, content_type="multipart/form-data; boundary=x")
        return answer.status_code, answer.json()

    first, second, other = part("file", JPEG), part("file", PNG), part("other", PNG)
    for parts in ((first, second), (first, other), (other, first), (other, first, second)):
        status, body = post(*parts)
        assert (status, body["size"], body["mimeType"]) == (201, len(JPEG), "image/jpeg")
    for cut in ((first,), (first, other), (other, first), (other,)):
        assert refused(post(*cut, end=b"")) == (400, "FILE_UPLOAD_ERROR"), "it has no end"
    assert len(desk.stored()) == 4


def test_who_may_upload(desk: Desk) -> None:
    world = desk.world
    assert refused(desk.post(PNG, client=Client())) == (401, "UNAUTHORIZED")
    with service_scope("test"):
        key, _ = create_api_key(owner=world.agent, tenant_id=world.ipe.pk, name="t", scopes=["tickets:read"])
    assert refused(desk.post(PNG, client=Client(headers={"X-API-Key": key}))) == (403, "FORBIDDEN")
    theirs, hidden = arrive(world, tenant=world.cedro), give(arrive(world), world.agent2)
    wrong: tuple[dict[str, Any], ...] = (
        {"ticketId": str(theirs.pk)}, {"contactId": str(theirs.contact_id)}, {"ticketId": str(hidden.pk)},
        {"ticketId": str(uuid4())},
    )  # fmt: skip
    for fields in wrong:
        assert refused(desk.post(PNG, **fields)) == (404, "NOT_FOUND"), fields
    with service_scope("test"):
        assert {Ticket.objects.count(), Contact.objects.count()} == {2}
    assert desk.stored() == {}


def test_a_browser_needs_its_token(desk: Desk) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(desk.world.agent)
    assert desk.post(PNG, client=client)[0] == 403
    client.cookies["csrftoken"] = token = "t" * 32
    client.defaults["HTTP_X_CSRFTOKEN"] = token
    assert desk.post(PNG, client=client)[0] == 201
    del client.defaults["HTTP_X_CSRFTOKEN"]
    assert desk.post(PNG, client=client, csrfmiddlewaretoken=token)[0] == 201
    assert len(desk.stored()) == 2


def test_too_many_in_a_minute(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("whatsapp.api.uploads.PER_MINUTE", 2)
    assert PER_MINUTE == 60
    assert [desk.post(PNG)[0] for _ in range(2)] == [201, 201]
    answer = by_cookie(desk.world.agent).post(URL, {"file": SimpleUploadedFile("x", PNG)})
    assert refused((answer.status_code, answer.json())) == (429, "RATE_LIMITED")
    assert answer.headers["X-RateLimit-Limit"] == "2" and int(answer.headers["Retry-After"]) <= 60
    assert desk.post(PNG, client=by_cookie(desk.world.supervisor))[0] == 201


@pytest.mark.parametrize(
    ("typed", "kept"),
    [
        ("../../etc/passwd", "passwd"), ("C:\\temp\\foto.png", "foto.png"), ("a\u202egnp.exe", "agnp.exe"),
        ("nota\x07.pdf", "nota.pdf"), ("cafe\u0301.png", "café.png"), ("x" * 200 + ".png", "x" * 116 + ".png"),
    ],
)  # fmt: skip
def test_a_name_is_a_name(desk: Desk, typed: str, kept: str) -> None:
    status, body = desk.post(PNG, fileName=typed)
    assert (status, body["fileName"]) == (201, kept)
    (key,) = desk.stored()
    assert re.fullmatch(r"whatsapp/[\da-f-]{36}/\d{4}/\d\d/[\da-f-]{36}\.png", key)


def test_a_file_without_a_name_gets_one(desk: Desk) -> None:
    status, body = desk.post(PNG, fileName="...")
    assert (status, bool(re.fullmatch(r"image-[\da-f]{8}\.png", body["fileName"]))) == (201, True)


def test_outbound_22_a_link_works_until_it_expires(desk: Desk) -> None:
    _, body = desk.post(JPEG, "foto.jpg")
    url = body["resourceUrl"]
    assert url.startswith(configured.PUBLIC_BASE_URL)
    status, headers, content = get(url)
    assert (status, content, headers["Content-Type"]) == (200, JPEG, "image/jpeg")
    assert headers["Content-Disposition"] == 'attachment; filename="foto.jpg"'
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Content-Security-Policy"].endswith("sandbox")
    assert headers["Cache-Control"].startswith("private")
    status, headers, content = get(url, Range="bytes=5-9")
    assert (status, content, headers["Content-Range"]) == (206, JPEG[5:10], f"bytes 5-9/{len(JPEG)}")
    place = f"{URL}/{body['uploadId']}/content"
    old = links.sign("upload", desk.row(body["uploadId"]).pk, now=datetime.now(UTC) - timedelta(seconds=901))
    assert refused(send(Client(), "get", f"{place}?{old}")) == (410, "LINK_EXPIRED")
    changed = url[:-1] + ("0" if url[-1] != "0" else "1")
    other = links.sign("media", desk.row(body["uploadId"]).pk, now=datetime.now(UTC))
    for wrong in (changed, place, f"{place}?{other}", f"{place}?exp=99999999999&sig=é", url.replace("exp=", "exp=1")):
        assert refused(send(Client(), "get", wrong)) == (403, "LINK_INVALID"), wrong


def test_outbound_22_an_upload_of_others_is_not_found(desk: Desk) -> None:
    world = desk.world
    _, body = desk.post(JPEG)
    place = f"{URL}/{body['uploadId']}"
    for method in ("get", "delete"):
        for person in (world.outsider, world.agent2):
            assert refused(send(by_cookie(person), method, place)) == (404, "NOT_FOUND")
        assert refused(send(by_cookie(world.agent), method, f"{URL}/{uuid4()}")) == (404, "NOT_FOUND")
    for person in (world.agent, world.supervisor):
        status, shown = send(by_cookie(person), "get", place)
        assert (status, shown["state"], shown["data"]["uploadId"]) == (200, "READY", body["uploadId"])
        assert get(shown["resourceUrl"])[2] == JPEG


def test_a_file_is_removed_before_use(desk: Desk) -> None:
    client = by_cookie(desk.world.agent)
    _, body = desk.post(JPEG)
    place = f"{URL}/{body['uploadId']}"
    assert send(client, "delete", place) == (204, None)
    assert desk.stored() == {}
    assert desk.row(body["uploadId"]).file_removed_at is not None
    assert refused(send(client, "delete", place)) == (410, "UPLOAD_EXPIRED")
    assert refused(send(Client(), "get", body["resourceUrl"])) == (410, "UPLOAD_EXPIRED")
    status, shown = send(client, "get", place)
    assert (status, shown["state"], shown["resourceUrl"]) == (200, "EXPIRED", None)
    assert [action for action, *_ in desk.audited()] == ["upload.created", "upload.expired"]


@pytest.mark.parametrize("kind", ["disk", "bucket"])
def test_outbound_24_disk_and_bucket_do_the_same(desk: Desk, settings: Settings, kind: str) -> None:
    with bucket_running() as bucket:
        if kind == "bucket":
            keep_at(bucket.url, settings)
        status, body = desk.post(JPEG, "o tênis.jpg")
        assert status == 201
        upload = desk.row(body["uploadId"])
        assert (body["mediaType"], body["size"], body["sha256"]) == ("image", len(JPEG), sha256(JPEG).hexdigest())
        if kind == "bucket":
            assert bucket.objects == {f"/files/{upload.storage_key}": JPEG}
            answer = requests.get(body["resourceUrl"], timeout=5)  # the broker fetches it from the store itself
            assert (answer.content, answer.headers["Content-Type"]) == (JPEG, "image/jpeg")
            assert answer.headers["Content-Disposition"].startswith("attachment")
            assert "X-Amz-Expires=900" in body["resourceUrl"]
        else:
            assert desk.stored() == {upload.storage_key: JPEG}
            assert get(body["resourceUrl"])[2] == JPEG
        assert send(by_cookie(desk.world.agent), "delete", f"{URL}/{upload.pk}")[0] == 204
        assert bucket.objects == {} == desk.stored()
        assert refused(desk.post(EXE, "foto.jpg")) == (415, "UNSUPPORTED_MEDIA_TYPE")
        assert bucket.objects == {} == desk.stored()


def test_a_store_that_is_away(desk: Desk) -> None:
    (desk.root / "media").write_bytes(b"a file where the directory should be")
    assert refused(desk.post(JPEG)) == (503, "STORAGE_UNAVAILABLE")
    assert desk.audited()[0][2]["code"] == "STORAGE_UNAVAILABLE"
    with service_scope("test"):
        assert Upload.objects.get().state == "EXPIRED"  # the clean-up looks after what may lie there


def test_outbound_24_a_scanner_that_says_infected_or_is_down(desk: Desk, settings: Settings) -> None:
    with clamd(b"stream: Win.Test.X FOUND") as (address, given):
        settings.CLAMAV_URL = address
        status, body = desk.post(PDF, "a.pdf")
        assert refused((status, body)) == (422, "FILE_INFECTED")
        assert body["error"]["details"] == {"threat": "Win.Test.X"}
        assert given == [PDF]
    assert refused(desk.post(PDF)) == (503, "SCANNER_UNAVAILABLE")  # it is down now
    for answer in (None, b"INSTREAM size limit exceeded. ERROR"):
        with clamd(answer) as (settings.CLAMAV_URL, given):
            assert refused(desk.post(PDF)) == (503, "SCANNER_UNAVAILABLE")
    assert desk.stored() == {}
    with clamd(b"stream: OK") as (settings.CLAMAV_URL, given):
        assert refused(desk.post(TEST_VIRUS)) == (422, "FILE_INFECTED")
        assert desk.post(PDF)[0] == 201
    assert [action for action, *_ in desk.audited()] == [
        "upload.infected", *["upload.rejected"] * 3, "upload.infected", "upload.created",
    ]  # fmt: skip


def test_a_scanner_that_hangs_is_not_waited_for_longer(
    desk: Desk, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("whatsapp.media.scanning.LONGEST", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        settings.CLAMAV_URL = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        assert refused(desk.post(PDF)) == (503, "SCANNER_UNAVAILABLE")


def test_what_is_counted(desk: Desk, django_capture_on_commit_callbacks: Any) -> None:
    def counted(result: str, kind: str) -> float:
        return float(metrics.uploads.labels(media_type=kind, result=result)._value.get())

    before = counted("accepted", "image"), counted("rejected", "unknown"), counted("infected", "unknown")
    with django_capture_on_commit_callbacks(execute=True):
        desk.post(JPEG)
        desk.post(EXE)
        desk.post(TEST_VIRUS)
    after = counted("accepted", "image"), counted("rejected", "unknown"), counted("infected", "unknown")
    assert [now - then for now, then in zip(after, before, strict=True)] == [1, 1, 1]
