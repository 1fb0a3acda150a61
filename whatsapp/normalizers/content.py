"""What a WhatsApp message says, read from raw keys (spec/inbound.md section 5)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from whatsapp.addresses import parse_jid
from whatsapp.normalizers.kinds import BODIES, KINDS, READERS
from whatsapp.normalizers.values import as_id, first_text, present
from whatsapp.normalizers.wrappers import Unwrapped, unwrap
from whatsapp.schemas import Quote

if TYPE_CHECKING:
    from whatsapp.normalizers.kinds import Reading
    from whatsapp.schemas import Content, Media

_QUOTED_ID = ("stanzaId", "stanzaID", "quotedMessageId")


def read_content(message: Unwrapped, *, free_form: bool = False) -> Reading | None:
    """Read the content of an unwrapped message; None when it has none, or only a blank text.

    A key we do not know makes it an UNKNOWN content, so that nothing a customer sent is lost. In a free-form
    (canonical) message only a key named like a kind (`...Message`) does.
    """
    key, kind = _choose(message.keys, free_form)
    if key is None:
        return None
    quote = read_quote(message.keys)
    reading = READERS[kind](key, message, quote)
    if reading is None and key not in ("conversation", "extendedTextMessage"):
        return READERS["unknown"](key, message, quote)
    return reading


def type_word(message: Any) -> str:
    """Give the messageType word of a raw message without reading it, `none` when it carries no message."""
    keys = unwrap(message).keys
    if "protocolMessage" in keys or "historySyncNotification" in keys:
        return "none"
    return _choose(keys, free_form=False)[1]


def read_quote(keys: dict[str, Any]) -> Quote | None:
    """Find the quoted message in any contextInfo of the content."""
    for node in (keys, *keys.values()):
        info = node.get("contextInfo") if type(node) is dict else None
        if type(info) is dict:
            external_id = next(filter(None, (as_id(info.get(name)) for name in _QUOTED_ID)), None)
            if external_id:
                author = parse_jid(info.get("participant"))
                text = _text_of(info.get("quotedMessage"))
                return Quote(external_id, text, author.bare if author else None)
    return None


def content_metadata(content: Content) -> dict[str, Any]:
    """Write what a content adds to the metadata of its message; keys of files and polls stay out of it."""
    quote = content.quote
    metadata = present(
        interactive=content.interactive,
        location=content.location,
        contacts=content.contacts,
        unknownKind=content.unknown_kind,
        **content.flags,
    )
    if quote is not None:
        metadata["quoted"] = present(id=quote.external_id, text=quote.text, participant=quote.participant)
    if content.media is not None:
        metadata["media"] = _media_metadata(content.media)
    return metadata


def _media_metadata(media: Media) -> dict[str, Any]:
    return present(
        mediaType=media.media_type,
        mimetype=media.mime_type,
        fileName=media.file_name,
        size=media.size,
        seconds=media.seconds,
        width=media.width,
        height=media.height,
        pageCount=media.page_count,
        ptt=media.ptt or None,
        sticker=media.sticker or None,
        ptv=media.ptv or None,
    )


def _choose(keys: dict[str, Any], free_form: bool) -> tuple[str | None, str]:
    """Choose the key that decides, and its kind: a known kind, else a text (beside a file it is the caption),
    else any other key."""
    text = other = None
    for key, node in keys.items():
        kind = KINDS.get(key)
        if kind and type(node) is (str if key == "conversation" else dict):
            if kind != "text":
                return key, kind
            text = text or key
        elif not free_form or key.endswith("Message"):
            other = other or key
    if text:
        return text, "text"
    return (other, "unknown") if other else (None, "none")


def _text_of(message: Any) -> str | None:
    # Text or caption only: what a quoted message quotes itself is not followed.
    keys = unwrap(message).keys
    key, kind = _choose(keys, free_form=False)
    if key is None or kind == "unknown":
        return None
    node = keys[key]
    return BODIES[key](node) if kind == "text" else first_text(node.get("caption"), node.get("name"))
