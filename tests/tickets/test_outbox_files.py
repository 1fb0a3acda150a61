"""Files of outgoing messages: an upload becomes the file of its message, and what it may not be."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.utils import timezone

from leadengine.accounts.scopes import tenant_scope
from leadengine.errors import NotFound
from tests.api import by_cookie
from tests.api import send as call
from tests.conftest import World
from tests.outbound import conversation, queue
from tests.tickets.desk import nobody_id
from tickets.models import Message, MessageMedia
from tickets.services.outbox import resend_message
from tickets.transports import KeptFile, get_transport

pytestmark = pytest.mark.django_db(transaction=True)
IMAGE = "http://files.example.com/a.png"


class Keeper:
    """The channel's transport with files of its own: `gone` refuses like one whose file has expired."""

    def __init__(self, real: Any, files: dict[UUID, KeptFile]) -> None:
        self.real, self.files, self.gone = real, files, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def take_file(self, *, tenant_id: UUID, file_id: UUID, author: Any, line: Any, now: datetime) -> KeptFile:
        if file_id not in self.files:
            raise NotFound
        return self.files[file_id]

    def require_file(self, *, tenant_id: UUID, source: Any, now: datetime) -> None:
        if self.gone:
            raise NotFound("gone")


@pytest.fixture
def keeper(monkeypatch: pytest.MonkeyPatch) -> Keeper:
    """Files that the channel keeps, whatever it does with uploads."""
    found = Keeper(get_transport("WHATSAPP"), {})
    for module in ("accepting", "actions"):
        monkeypatch.setattr(f"tickets.services.outbox.{module}.get_transport", lambda _: found)
    return found


def keep(keeper: Keeper, kind: str = "image", **more: Any) -> UUID:
    fields: dict[str, Any] = {
        "id": uuid4(), "media_type": kind, "mime_type": "image/png", "file_name": "foto.png", "size": 40,
        "sha256": "ab" * 32, "storage_key": "whatsapp/x.png", "source": {"upload": "x"},
    }  # fmt: skip
    file = KeptFile(**fields | more)
    keeper.files[file.id] = file
    return file.id


@pytest.mark.parametrize("kind", ["image", "document"])
def test_an_upload_becomes_the_file_of_its_message(committed_world: World, keeper: Keeper, kind: str) -> None:
    ticket, client = conversation(committed_world), by_cookie(committed_world.agent)
    upload = keep(keeper)
    payload = {"type": kind, "uploadId": str(upload), "caption": "veja", "mimeType": "text/html"}
    status, body = call(client, "POST", f"/api/tickets/{ticket.pk}/messages", {"payload": payload})
    assert status == 202, body
    with tenant_scope(committed_world.ipe.pk):
        message = Message.objects.get(pk=body["data"]["messageId"])
        media = MessageMedia.objects.get(message=message)
    assert (media.state, media.media_type, media.mime_type, media.file_name, media.size, media.upload_id) == (
        "ready", kind, "image/png", "foto.png", 40, upload,
    )  # fmt: skip
    assert (media.sha256, media.storage_key, media.source) == ("ab" * 32, "whatsapp/x.png", {"upload": "x"})
    # What was detected is sent, not what was claimed.
    assert message.payload == {"type": kind, "caption": "veja", "mimeType": "image/png", "fileName": "foto.png"}


def test_what_an_upload_may_not_be(committed_world: World, keeper: Keeper) -> None:
    ticket, client = conversation(committed_world), by_cookie(committed_world.agent)
    image, big = keep(keeper), keep(keeper, size=17 * 1024 * 1024)

    def refused(**payload: Any) -> tuple[int, str, Any]:
        status, body = call(client, "POST", f"/api/tickets/{ticket.pk}/messages", {"payload": payload})
        return status, body["error"]["code"], body["error"]["details"]

    status, code, details = refused(type="audio", uploadId=str(image))
    assert (status, code, details["errors"][0]["field"]) == (400, "VALIDATION_ERROR", "uploadId")
    assert refused(type="image", uploadId=str(nobody_id()))[:2] == (404, "NOT_FOUND")
    assert refused(type="image", uploadId=str(image), mediaUrl=IMAGE)[:2] == (400, "VALIDATION_ERROR")
    assert refused(type="image", uploadId="x")[:2] == (400, "VALIDATION_ERROR")
    status, code, details = refused(type="image", uploadId=str(big))
    assert (status, code) == (413, "MEDIA_TOO_LARGE")
    assert details == {"maxBytes": 16 * 1024 * 1024, "size": 17 * 1024 * 1024, "mediaType": "image"}
    media = {"url": IMAGE, "size": 16 * 1024 * 1024 + 1}
    assert refused(type="image", media=media)[:2] == (413, "MEDIA_TOO_LARGE")
    with tenant_scope(committed_world.ipe.pk):
        assert Message.objects.count() == 1


def test_a_file_that_is_gone_is_not_sent_again(committed_world: World, keeper: Keeper) -> None:
    ticket = conversation(committed_world)
    message = queue(committed_world, ticket, payload={"type": "image", "uploadId": str(keep(keeper))})
    with tenant_scope(committed_world.ipe.pk):
        Message.objects.filter(pk=message.pk).update(status="UNCONFIRMED")

    def again() -> Message:
        with tenant_scope(committed_world.ipe.pk):
            queued = resend_message(
                actor=committed_world.agent, message_id=message.pk, confirm_duplicate=True, now=timezone.now()
            )
            return queued.message

    keeper.gone = True
    with pytest.raises(NotFound, match="gone"):
        again()
    keeper.gone = False
    copy = again()
    with tenant_scope(committed_world.ipe.pk):
        uploads = MessageMedia.objects.filter(message_id__in=[message.pk, copy.pk]).values_list("upload_id", flat=True)
        assert (len(uploads), len(set(uploads))) == (2, 1)
