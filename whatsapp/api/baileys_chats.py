"""/api/baileys-simple: what is done with one chat of a connection (section 7). A chat is a JID or a number."""

from __future__ import annotations

from typing import Any, ClassVar
from uuid import UUID

from django.utils import timezone
from rest_framework import status
from rest_framework.request import Request
from rest_framework.response import Response

from leadengine.accounts.api.schema import Shape
from leadengine.accounts.models import ApiKey
from tickets.models import Message
from tickets.services.outbox import Wish
from whatsapp.api.baileys_base import BaileysView, DevOwner, SimpleBody, describe_simple, said
from whatsapp.api.doors import TellsQueueMissing
from whatsapp.api.instances_actions import CountShape
from whatsapp.services.chats import close_chat, mark_chat_read, queue_to_chat, read_chat
from whatsapp.services.lines import find_line
from whatsapp.services.sessions.wishes import InstanceNotFound


class ChatBody(SimpleBody):
    chat_id: str


class SendChatBody(ChatBody):
    """`text` is the caption of a file. `caption`, `mimeType` and `fileName` are understood, too."""

    type: str = "text"
    text: str | None = None
    media_url: str | None = None
    caption: str | None = None
    mime_type: str | None = None
    file_name: str | None = None
    idempotency_key: str | None = None

    def payload(self) -> dict[str, Any]:
        """What the outbox is asked to send (spec/outbound.md section 2)."""
        kind = self.type.strip().lower()
        if kind == "text":
            fields: dict[str, Any] = {"text": self.text}
        else:
            caption = self.caption or (self.text if kind != "audio" else None)
            fields = {
                "mediaUrl": self.media_url, "caption": caption, "mimeType": self.mime_type, "fileName": self.file_name,
            }  # fmt: skip
        return {"type": kind, **{name: value for name, value in fields.items() if value is not None}}


class CloseChatBody(ChatBody):
    """Without `reasonCode` the first plain reason."""

    reason_code: str = ""


class QueuedShape(Shape):
    id: UUID
    status: str


class ClosedShape(Shape):
    """How many atendimentos ended, 0 or 1, and which."""

    count: int
    id: UUID | None = None
    status: str | None = None


class SendView(TellsQueueMissing, BaileysView):
    @describe_simple(QueuedShape, body=SendChatBody, code=status.HTTP_202_ACCEPTED)
    def post(self, request: Request, connection_id: str) -> Response:
        """Accept a message to a chat, into its open ticket on this connection or a new one."""
        session = self.find(connection_id)
        body = self.read_body(SendChatBody)
        wish = Wish(
            author=self.user, payload=body.payload(), source=self._source(),
            idempotency_key=body.idempotency_key, header_key=request.headers.get("Idempotency-Key"),
        )  # fmt: skip
        chat = read_chat(body.chat_id)
        with self.scope():
            self.used = line = find_line(session.pk)
            if line is None:
                raise InstanceNotFound
            queued = queue_to_chat(line=line, chat=chat, wish=wish, now=timezone.now())
        message = queued.message
        return said({"id": str(message.pk), "status": message.status.lower()}, code=status.HTTP_202_ACCEPTED)

    def _source(self) -> str:
        """A key acts as the API; a person, also one who signed in over the API, as an agent."""
        key = self.api_key
        if isinstance(self.request.successful_authenticator, DevOwner):
            return Message.Source.API
        return Message.Source.AGENT if key is None or key.kind == ApiKey.Kind.LOGIN else Message.Source.API


class ReadView(BaileysView):
    permissions: ClassVar = {"POST": "tickets:read"}

    @describe_simple(CountShape, body=ChatBody)
    def post(self, request: Request, connection_id: str) -> Response:
        """Mark a chat's open ticket as read by the caller; how many messages that were."""
        session = self.find(connection_id)
        chat = read_chat(self.read_body(ChatBody).chat_id)
        with self.scope():
            count = mark_chat_read(session=session, chat=chat, actor=self.user, now=timezone.now())
        return said({"count": count})


class CloseView(BaileysView):
    permissions: ClassVar = {"POST": "tickets:write"}

    @describe_simple(ClosedShape, body=CloseChatBody)
    def post(self, request: Request, connection_id: str) -> Response:
        """End a chat's open atendimento and its ticket; a chat without one has nothing to end."""
        session = self.find(connection_id)
        body = self.read_body(CloseChatBody)
        closed = close_chat(
            session=session, chat=read_chat(body.chat_id), actor=self.user, reason_code=body.reason_code,
            now=timezone.now(), scope=self.scope,
        )  # fmt: skip
        return said({"count": 0} if closed is None else {"count": 1, "id": str(closed), "status": "FECHADO"})
