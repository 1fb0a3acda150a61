"""TurboZap's routes of messages: `/message/{name}/text` and `/media`, through the one outbox."""

from __future__ import annotations

from tempfile import TemporaryFile
from typing import IO, Any
from uuid import UUID

from django.conf import settings
from django.utils import timezone
from rest_framework import status
from rest_framework.request import Request
from rest_framework.response import Response

from leadengine.errors import DomainError, ValidationFailed
from tickets.models import Message
from tickets.services.outbox import Wish, check_key
from tickets.services.outbox.refusals import IdempotencyKeyReused, InstanceDisconnected
from tickets.services.shapes import iso
from tickets.transports import Line
from whatsapp.api.base import as_uuid
from whatsapp.api.doors import TellsQueueMissing
from whatsapp.api.parcels import Parcel, read_parcel
from whatsapp.api.turbozap_base import SnakeBody, TurboZapView, said
from whatsapp.models import Upload, WhatsAppSession
from whatsapp.services.lines import find_line
from whatsapp.services.outgoing import queue_to_number, read_to
from whatsapp.services.sessions.wishes import InstanceNotFound
from whatsapp.services.uploads import FileTooLarge, store_upload
from whatsapp.services.uploads_life import remove_files, withdraw_upload

_CHUNK = 65_536


class MessageBody(SnakeBody):
    """`quote_id` is a message of the same person, by our id or by WhatsApp's."""

    to: str
    quote_id: str | None = None


class TextBody(MessageBody):
    text: str


class MediaBody(MessageBody):
    """`base64` is empty here: its content has gone to a file by itself."""

    media_url: str | None = None
    base64: str | None = None
    mime_type: str
    file_name: str | None = None
    caption: str | None = None

    @property
    def kind(self) -> str:
        """The type of its message."""
        kind = self.mime_type.partition("/")[0].strip().lower()
        return kind if kind in {"image", "video", "audio"} else "document"


class MessageView(TellsQueueMissing, TurboZapView):
    """A door of the outbox. Its handler runs in one transaction, as that of the native doors."""

    def queue(self, session: WhatsAppSession, body: MessageBody, payload: dict[str, Any]) -> Response:
        """Accept a message to a number, through a connection that the caller sees."""
        with self.scope():
            self.used = line = find_line(session.pk)
            if line is None:
                raise InstanceNotFound
            wish = Wish(
                author=self.user, payload=payload | _quoted(line, body.quote_id), source=Message.Source.API,
                idempotency_key=self.key, session=line,
            )  # fmt: skip
            message = queue_to_number(line=line, to=body.to, wish=wish, now=timezone.now()).message
        data = {
            "id": str(message.pk),
            "message_id": message.external_id,
            "status": message.status.lower(),
            "timestamp": iso(message.sent_at),
        }
        return said(data, code=status.HTTP_201_CREATED)

    @property
    def key(self) -> str | None:
        """The idempotency key of the request. Raises: ValidationFailed."""
        return check_key(self.request.headers.get("Idempotency-Key"))


class TextView(MessageView):
    def post(self, request: Request, instance: str) -> Response:
        """Accept a text."""
        body = self.read_body(TextBody)
        return self.queue(self.find_named(instance), body, {"type": "text", "text": body.text})


class MediaView(MessageView):
    def post(self, request: Request, instance: str) -> Response:
        """Accept a file: by an address that the broker can fetch, or as base64, which is kept as an upload."""
        session = self.find_named(instance)
        with TemporaryFile() as file:
            parcel = self._read(file)
            body = self.read_json(MediaBody, parcel.rest)
            if body.base64:  # its name was written in escapes, or stood there twice
                raise ValidationFailed([{"field": "base64", "message": "Não é base64."}])
            if (parcel.size is None) == (body.media_url is None):
                raise ValidationFailed([{"field": "media_url", "message": "Informe media_url ou base64, um dos dois."}])
            fields: dict[str, Any] = {"type": body.kind, "caption": body.caption}
            if parcel.size is None:
                fields |= {"mediaUrl": body.media_url, "mimeType": body.mime_type, "fileName": body.file_name}
                return self.queue(session, body, _filled(fields))
            return self._queue_file(session, body, fields, file, parcel)

    def _read(self, file: IO[bytes]) -> Parcel:
        """The body, its file decoded into `file`. Raises: FileTooLarge, by what the caller declares already."""
        request, most = self.request._request, max(settings.UPLOAD_MAX_BYTES.values())
        if int(request.META.get("CONTENT_LENGTH") or 0) > 2 * most:
            raise FileTooLarge(maxBytes=most)
        return read_parcel(iter(lambda: request.read(_CHUNK), b""), file, name="base64", most=most)

    def _queue_file(
        self, session: WhatsAppSession, body: MediaBody, fields: dict[str, Any], file: IO[bytes], parcel: Parcel
    ) -> Response:
        """Keep a file and accept its message. The same key with the same file again finds what it was kept as."""
        kept = self._kept(session, parcel)
        if kept is not None:
            return self.queue(session, body, _filled(fields | {"uploadId": str(kept)}))
        read_to(body.to)
        if not session.connected:
            raise InstanceDisconnected(status=session.status, connected=False, instanceId=session.connection_id)
        upload = store_upload(
            tenant_id=session.tenant_id, actor=self.user, file=file, file_name=body.file_name or "",
            declared_type=body.kind, session_id=session.pk, now=timezone.now(),
        )  # fmt: skip
        try:
            return self.queue(session, body, _filled(fields | {"uploadId": str(upload.pk)}))
        except DomainError as refusal:
            self._withdraw(upload)
            earlier = self._kept(session, parcel) if isinstance(refusal, IdempotencyKeyReused) else None
            if earlier is None:
                raise
            # Another request with the same file came first, at the same moment.
            return self.queue(session, body, _filled(fields | {"uploadId": str(earlier)}))

    def _withdraw(self, upload: Upload) -> None:
        """Remove a file whose message was refused: nobody can name it any more."""
        with self.scope():
            withdraw_upload(actor=self.user, upload=upload)
        remove_files([upload], now=timezone.now())

    def _kept(self, session: WhatsAppSession, parcel: Parcel) -> UUID | None:
        """The upload of the message that this key has been used for, if it has the same content."""
        if self.key is None:
            return None
        with self.scope():
            rows = Message.objects.for_tenant(session.tenant_id).filter(
                idempotency_key=self.key, media__sha256=parcel.sha256
            )
            found: UUID | None = rows.values_list("media__upload_id", flat=True).first()
        return found


def _filled(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


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
