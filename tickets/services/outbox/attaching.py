"""The file of a message that is accepted: an upload that the channel keeps, or an address that a caller gave."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from leadengine.accounts.models import User
from leadengine.errors import ValidationFailed
from tickets.models import Message, MessageMedia
from tickets.payloads import MediaPayload, Payload
from tickets.services.outbox.refusals import MediaTooLarge
from tickets.transports import KeptFile, Line, Transport

DOCUMENT = "document"  # every file may go as one


def take_file(
    transport: Transport, content: Payload, *, tenant_id: UUID, author: User | None, line: Line, now: datetime
) -> KeptFile | None:
    """Take the upload that a payload names; its true type and its name become the payload's. None: it names none.

    Raises: NotFound, ValidationFailed for a file of another type than the payload's, MediaTooLarge for a file, also one
    at an address, that is said to be larger than the line takes, and what Transport.take_file raises.
    """
    if not isinstance(content, MediaPayload):
        return None
    kind = content.kind.lower()
    if content.upload_id is None:
        _check_size(kind, content.media.size if content.media else None, line)
        return None
    file = transport.take_file(tenant_id=tenant_id, file_id=content.upload_id, author=author, line=line, now=now)
    if kind not in {file.media_type, DOCUMENT}:
        raise ValidationFailed([{"field": "uploadId", "message": f"O arquivo é de outro tipo: {file.media_type}."}])
    _check_size(kind, file.size, line)
    content.mime_type = file.mime_type
    content.file_name = content.file_name or file.file_name
    return file


def media_of(message: Message, content: Payload, file: KeptFile | None) -> MessageMedia | None:
    """The row of a message's file, ready to be sent. Only `source` says where it is."""
    if not isinstance(content, MediaPayload):
        return None
    media = MessageMedia(
        tenant_id=message.tenant_id,
        message=message,
        state=MessageMedia.State.READY,
        media_type=message.type.lower(),
        mime_type=content.mime_type or "",
        file_name=content.file_name or "",
        voice=getattr(content, "voice", False),
    )
    if file is not None:
        media.size, media.sha256, media.storage_key = file.size, file.sha256, file.storage_key
        media.source, media.upload_id = dict(file.source), file.id
    elif content.media is not None:
        media.size, media.source = content.media.size, {"url": content.media.url}
    return media


def _check_size(kind: str, size: int | None, line: Line) -> None:
    most = line.capabilities.media_max_bytes.get(kind)
    if size is not None and most is not None and size > most:
        raise MediaTooLarge(maxBytes=most, size=size, mediaType=kind)
