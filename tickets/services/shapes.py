"""How tickets and messages look from outside: the same shapes for REST and for events. Fields are always listed."""

from __future__ import annotations

from typing import Any

from django.utils.translation import gettext, override

from leadengine.moments import iso as iso

PREVIEW = 280
MEDIA_LINK = "media"  # the purpose of links to files (leadengine.links)
_WORDS = {
    "IMAGE": ("📷", "Photo"),
    "VIDEO": ("🎬", "Video"),
    "AUDIO": ("🎤", "Audio"),
    "DOCUMENT": ("📄", "Document"),
    "STICKER": ("🖼️", "Sticker"),
    "LOCATION": ("📍", "Location"),
    "CONTACT": ("👤", "Contact"),
    "POLL": ("📊", "Poll"),
    "POLL_VOTE": ("📊", "Vote in a poll"),
    "TEMPLATE": ("🧾", "Template"),
    "UNKNOWN": ("❔", "Unsupported message"),
}


def preview_of(kind: str, text: str, *, revoked: bool = False) -> str:
    """At most 280 characters of the text on one line, led by a sign and, without text, the word of its kind.

    What its author deleted says only that: a preview is for everybody.
    """
    if revoked:
        with override("pt-br"):
            return f"🚫 {gettext('message deleted')}"
    line = " ".join(text.split())
    if kind in _WORDS:
        sign, word = _WORDS[kind]
        # Stored in the row, so in the product's first language, whoever's request or worker made it.
        with override("pt-br"):
            line = f"{sign} {line or gettext(word)}"
    return line[:PREVIEW]


def media_json(media: Any | None) -> dict[str, Any] | None:
    """A file without its address or keys: {id, state, reason, mediaType, mimeType, fileName, size, seconds, …}.

    `url` is filled where the reader is known (REST): it opens the file by itself for a short time.
    """
    if media is None:
        return None
    return {
        "id": str(media.pk) if hasattr(media, "pk") else None,
        "url": None,
        "state": getattr(media, "state", "pending"),
        "reason": getattr(media, "reason", ""),
        "mediaType": media.media_type,
        "mimeType": media.mime_type,
        "fileName": media.file_name,
        "size": media.size,
        "seconds": media.seconds,
        "width": media.width,
        "height": media.height,
        "pageCount": media.page_count,
        "voice": media.voice,
    }


def message_json(
    message: Any, *, media: Any | None = None, reactions: list[dict[str, Any]] | None = None
) -> dict[str, Any]:
    """A message as REST and `ticket.message` show it. `message` is a Message row (author selected) or a look-alike."""
    author = message.author if message.author_id else None
    return {
        "id": str(message.id),
        "ticketId": str(message.ticket_id),
        "contactId": str(message.contact_id),
        "sessionId": str(message.session_id) if message.session_id else None,
        "position": message.position,
        "direction": message.direction,
        "type": message.type,
        "content": "" if message.revoked_at else message.content,
        "caption": "" if message.revoked_at else message.caption,
        "version": message.version,
        "status": message.status,
        "source": message.source,
        "author": {"id": str(author.id), "name": author.name} if author else None,
        "sender": message.sender,
        "replyToId": str(message.reply_to_id) if message.reply_to_id else None,
        "resendOfId": str(message.resend_of_id) if message.resend_of_id else None,
        "externalId": message.external_id,
        "idempotencyKey": message.idempotency_key,
        "sentAt": iso(message.sent_at),
        "receivedAt": iso(message.received_at),
        "deliveredAt": iso(message.delivered_at),
        "readAt": iso(message.read_at),
        "playedAt": iso(message.played_at),
        "failedAt": iso(message.failed_at),
        "scheduledAt": iso(message.scheduled_at),
        "editedAt": iso(message.edited_at),
        "revokedAt": iso(message.revoked_at),
        "waitReason": message.wait_reason,
        "notBefore": iso(message.not_before),
        "error": message.error,
        "media": media_json(media),
        "reactions": reactions or [],
        "metadata": message.metadata,
    }
