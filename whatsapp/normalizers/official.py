"""What a canonical message says: blocks of the official broker, and raw keys in a free-form message
(spec/inbound.md sections 4 and 5)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from whatsapp.addresses import parse_jid
from whatsapp.normalizers.content import read_content
from whatsapp.normalizers.kinds import read_media, read_place
from whatsapp.normalizers.polls import read_options, vote_text
from whatsapp.normalizers.values import as_dict, as_id, as_label, as_text, first_text, present
from whatsapp.schemas import Content, Quote

if TYPE_CHECKING:
    from whatsapp.normalizers.wrappers import Unwrapped

# messageType word and row type of a type word that came with no more than a text. What `media` is, only the
# raw twin knows, and it fills the type of an UNKNOWN row.
_TYPES: dict[str, tuple[str, Any]] = {
    "media": ("unknown", "UNKNOWN"),
    "location": ("location", "LOCATION"),
    "contact": ("contact", "CONTACT"),
    "poll": ("poll", "POLL"),
    "buttons_response": ("buttons_response", "TEXT"),
    "interactive": ("buttons_response", "TEXT"),
    "list_response": ("list_response", "TEXT"),
}
_MEDIA: dict[str, tuple[str, str, Any, str]] = {
    "image": ("image", "image", "IMAGE", "Image"),
    "sticker": ("sticker", "image", "STICKER", "Image"),
    "video": ("video", "video", "VIDEO", "Video"),
    "ptv": ("video", "video", "VIDEO", "Video"),
    "audio": ("audio", "audio", "AUDIO", "Audio"),
    "ptt": ("audio", "audio", "AUDIO", "Audio"),
    "document": ("document", "document", "DOCUMENT", "Document"),
}


def read_canonical(message: dict[str, Any], raw: Unwrapped, metadata: dict[str, Any], *, may_wait: bool) -> Content:
    """Read the content of a canonical message. may_wait: one that says nothing waits for its raw twin.

    raw: the message, or the raw message in it, unwrapped.
    """
    reading = read_content(raw, free_form=message.get("message") is None)
    forwarded = reading.content if reading else None
    if forwarded is not None and forwarded.payload_type not in ("text", "unknown"):
        content: Content | None = forwarded
    else:
        content = _read_blocks(message, metadata) or forwarded
    if content is None:
        word = as_label(message.get("type"))
        kind = _TYPES.get(word, ("unknown", None))[0] if word else "unknown"
        return Content("UNKNOWN", kind, unknown_kind=word, flags=raw.flags, hollow=may_wait)
    text = content.text or (forwarded.text if forwarded else None) or as_text(message.get("text"))
    quote = content.quote or (forwarded.quote if forwarded else None) or _read_quote(message)
    if text != content.text or quote is not content.quote or raw.flags != content.flags:
        content = replace(content, text=text, quote=quote, flags={**content.flags, **raw.flags})
    return content


def _read_blocks(message: dict[str, Any], metadata: dict[str, Any]) -> Content | None:
    text, word = as_text(message.get("text")), as_text(message.get("type")) or ""
    choice = as_dict(metadata.get("pollChoice"))
    if word == "poll_update" or choice:
        return _read_vote(choice, text)
    block = message.get("media")
    if type(block) is dict:
        return _read_media_block(block, text)
    interactive = as_dict(message.get("interactive"))
    chosen = first_text(interactive.get("id"), interactive.get("rowId"))
    title = as_text(interactive.get("title"))
    if chosen or title:
        kind = as_label(interactive.get("type"))
        if kind not in ("buttons_response", "list_response"):
            kind = "list_response" if word == "list_response" else "buttons_response"
        answer = present(type=kind, id=chosen, title=title)
        return Content("TEXT", kind, text or title or chosen, interactive=answer)
    if text is None:
        return None
    kind, row_type = _TYPES.get(word, ("text", "TEXT"))
    return Content(row_type, kind, text)


def _read_vote(choice: dict[str, Any], text: str | None) -> Content:
    poll_id = as_id(choice.get("pollId"))
    options = read_options(choice.get("selectedOptions"))
    poll = {"id": poll_id, **present(question=as_text(choice.get("question")), options=options)}
    interactive = present(type="poll_choice", id=poll_id)
    return Content("POLL_VOTE", "poll_choice", text or vote_text(options), interactive=interactive, poll=poll)


def _read_media_block(block: dict[str, Any], text: str | None) -> Content:
    caption = text or as_text(block.get("caption"))
    word = (as_text(block.get("mediaType")) or "").lower()
    if word == "location":
        place = read_place(block, "latitude", "longitude", "caption")
        return Content("LOCATION", "location", caption, location=place)
    if word not in _MEDIA:
        word = (as_text(block.get("mimetype")) or "").partition("/")[0].lower()
    media_type, kind, row_type, hkdf_kind = _MEDIA.get(word) or _MEDIA["document"]
    media = read_media(block, media_type, hkdf_kind, sticker=word == "sticker", ptv=word == "ptv")
    return Content(row_type, kind, caption, media)


def _read_quote(message: dict[str, Any]) -> Quote | None:
    external_id = as_id(message.get("quotedMessageId"))
    if external_id is None:
        return None
    author = parse_jid(message.get("quotedParticipant"))
    return Quote(external_id, as_text(message.get("quotedText")), author.bare if author else None)
