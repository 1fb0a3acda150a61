"""TurboZap's routes of messages: `/message/{name}/text` and `/media`, through the one outbox."""

from __future__ import annotations

from typing import Any, TypeVar

from django.utils import timezone
from rest_framework import status
from rest_framework.request import Request
from rest_framework.response import Response

from leadengine.errors import ValidationFailed
from tickets.models import Message
from tickets.services.outbox import Wish, choose_key
from tickets.services.shapes import iso
from tickets.transports import Line
from whatsapp.api.base import as_uuid
from whatsapp.api.doors import TellsQueueMissing
from whatsapp.api.turbozap_base import NotSupported, SnakeBody, TurboZapView, said
from whatsapp.services.lines import find_line
from whatsapp.services.outgoing import queue_to_number
from whatsapp.services.sessions.wishes import InstanceNotFound

Body = TypeVar("Body", bound="MessageBody")


class MessageBody(SnakeBody):
    """`quote_id` is a message of the same person, by our id or by WhatsApp's."""

    to: str
    quote_id: str | None = None


class TextBody(MessageBody):
    text: str


class MediaBody(MessageBody):
    media_url: str | None = None
    base64: str | None = None
    mime_type: str
    file_name: str | None = None
    caption: str | None = None


class MessageView(TellsQueueMissing, TurboZapView):
    """A door of the outbox. Its handler runs in one transaction, as that of the native doors."""

    def queue(self, instance: str, body: MessageBody, payload: dict[str, Any]) -> Response:
        """Accept a message to a number, through a connection that the caller sees."""
        session = self.find_named(instance)
        with self.scope():
            self.used = line = find_line(session.pk)
            if line is None:
                raise InstanceNotFound
            wish = Wish(
                author=self.user, payload=payload | _quoted(line, body.quote_id), source=Message.Source.API,
                idempotency_key=choose_key(self.request.headers.get("Idempotency-Key")), session=line,
            )  # fmt: skip
            message = queue_to_number(line=line, to=body.to, wish=wish, now=timezone.now()).message
        data = {
            "id": str(message.pk),
            "message_id": message.external_id,
            "status": message.status.lower(),
            "timestamp": iso(message.sent_at),
        }
        return said(data, code=status.HTTP_201_CREATED)


class TextView(MessageView):
    def post(self, request: Request, instance: str) -> Response:
        """Accept a text."""
        body = self.read_body(TextBody)
        return self.queue(instance, body, {"type": "text", "text": body.text})


class MediaView(MessageView):
    def post(self, request: Request, instance: str) -> Response:
        """Accept a file that the broker can fetch."""
        body = self.read_body(MediaBody)
        if body.base64 is not None:
            raise NotSupported("Envie o arquivo por media_url: o conteúdo em base64 ainda não é aceito.")
        kind = body.mime_type.partition("/")[0].lower()
        payload = {
            "type": kind if kind in {"image", "video", "audio"} else "document",
            "mediaUrl": body.media_url, "mimeType": body.mime_type, "fileName": body.file_name,
            "caption": body.caption,
        }  # fmt: skip
        return self.queue(instance, body, {field: value for field, value in payload.items() if value is not None})


def _quoted(line: Line, quote_id: str | None) -> dict[str, str]:
    """The message that is answered. Raises: ValidationFailed when this connection knows none of that id."""
    if quote_id is None:
        return {}
    rows = Message.objects.for_tenant(line.tenant_id).filter(session_id=line.id)
    own = as_uuid(quote_id)
    found = rows.filter(pk=own) if own is not None else rows.filter(external_id=quote_id)
    message_id = found.values_list("pk", flat=True).first()
    if message_id is None:
        raise ValidationFailed([{"field": "quote_id", "message": "Não é uma mensagem desta conexão."}])
    return {"replyTo": str(message_id)}
