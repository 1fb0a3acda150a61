"""One reader per kind of content: `(key, message, quote)` -> content and its part of the canonical message.

The table is that of spec/inbound.md section 5. A reader gives None when the node says nothing.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from whatsapp.addresses import canonical_phone, read_card_phone
from whatsapp.normalizers.values import (
    MAX_BIGINT,
    as_base64,
    as_count,
    as_dict,
    as_flag,
    as_float,
    as_id,
    as_label,
    as_list,
    as_text,
    deep_clean,
    first_text,
    present,
)
from whatsapp.schemas import Content, Media

if TYPE_CHECKING:
    from collections.abc import Callable

    from whatsapp.normalizers.wrappers import Unwrapped
    from whatsapp.schemas import Quote

# The longest base64 text of a thumbnail of 64 KB.
_MAX_THUMBNAIL = 87_384


class Reading(NamedTuple):
    """A content and its part of the canonical message, under the key that names its kind."""

    content: Content
    wire: dict[str, Any]


def read_media(node: dict[str, Any], media_type: Any, hkdf_kind: str, *, sticker: bool, ptv: bool) -> Media:
    """Read a file from a raw media node or from the media block of a canonical event."""
    source = present(
        url=as_text(node.get("url")),
        directPath=as_text(node.get("directPath")),
        mediaKey=as_base64(node.get("mediaKey")),
        fileSha256=as_base64(node.get("fileSha256")),
        fileEncSha256=as_base64(node.get("fileEncSha256")),
    )
    if source:
        source["mediaKind"] = hkdf_kind
    thumbnail = as_base64(node.get("jpegThumbnail"))
    size = node.get("fileLength")
    return Media(
        media_type,
        as_label(node.get("mimetype")),
        as_label(node.get("fileName")) or as_label(node.get("title")),
        as_count(node.get("size") if size is None else size, MAX_BIGINT),
        as_count(node.get("seconds")),
        as_flag(node.get("ptt")),
        as_count(node.get("width")),
        as_count(node.get("height")),
        as_count(node.get("pageCount")),
        thumbnail if thumbnail and len(thumbnail) <= _MAX_THUMBNAIL else None,
        source,
        sticker,
        ptv,
    )


def read_place(node: dict[str, Any], latitude: str, longitude: str, name: str) -> dict[str, Any] | None:
    """Read `{latitude, longitude, name, address}` from the fields named; None without a point on earth."""
    north, east = as_float(node.get(latitude)), as_float(node.get(longitude))
    if north is None or east is None or abs(north) > 90 or abs(east) > 180:
        return None
    return present(latitude=north, longitude=east, name=as_text(node.get(name)), address=as_text(node.get("address")))


def _read_text(key: str, message: Unwrapped, quote: Quote | None) -> Reading | None:
    text = BODIES[key](message.keys[key])
    return Reading(Content("TEXT", "text", text, quote=quote, flags=message.flags), {}) if text else None


def _read_file(key: str, message: Unwrapped, quote: Quote | None) -> Reading:
    media_type, row_type, hkdf_kind, wire_key = _FILES[key]
    node = message.keys[key]
    media = read_media(node, media_type, hkdf_kind, sticker=key == "stickerMessage", ptv=key == "ptvMessage")
    caption = as_text(node.get("caption"))
    content = Content(
        row_type,
        KINDS[key],
        caption or as_text(message.keys.get("conversation")),
        media,
        quote=quote,
        flags={**message.flags, "viewOnce": True} if as_flag(node.get("viewOnce")) else message.flags,
    )
    wire = present(
        mimetype=media.mime_type,
        fileLength=media.size,
        fileName=media.file_name,
        caption=caption,
        seconds=media.seconds,
        ptt=media.ptt or None,
        width=media.width,
        height=media.height,
        pageCount=media.page_count,
        jpegThumbnail=media.thumbnail,
        **media.source,
    )
    wire.pop("mediaKind", None)
    return Reading(content, {wire_key: wire})


def _read_reply(key: str, message: Unwrapped, quote: Quote | None) -> Reading | None:
    node = message.keys[key]
    if key == "listResponseMessage":
        chosen = as_text(as_dict(node.get("singleSelectReply")).get("selectedRowId"))
        title = first_text(node.get("title"), node.get("selectedDisplayText"))
    else:
        flow = _flow_answer(node)
        chosen = first_text(node.get("selectedButtonId"), node.get("selectedId"), flow.get("id"))
        shown = first_text(node.get("selectedDisplayText"), flow.get("display_text"))
        title = shown or first_text(node.get("title"), as_dict(node.get("body")).get("text"))
    if chosen is None and title is None:
        return None
    interactive = present(type=KINDS[key], id=chosen, title=title)
    content = Content("TEXT", KINDS[key], title or chosen, interactive=interactive, quote=quote, flags=message.flags)
    return Reading(content, {key: deep_clean({k: v for k, v in node.items() if k != "contextInfo"})})


def _flow_answer(node: dict[str, Any]) -> dict[str, Any]:
    # A native flow answers with JSON inside a string.
    answer = as_dict(node.get("nativeFlowResponseMessage")).get("paramsJson")
    try:
        return as_dict(json.loads(answer)) if type(answer) is str else {}
    except (ValueError, RecursionError):
        return {}


def _read_poll(key: str, message: Unwrapped, quote: Quote | None) -> Reading:
    node = message.keys[key]
    question = as_text(node.get("name"))
    names = (as_text(as_dict(option).get("optionName")) for option in as_list(node.get("options")))
    options = [name for name in names if name]
    selectable = as_count(node.get("selectableOptionsCount"))
    secret = message.secret or as_base64(node.get("encKey"))
    poll = present(question=question, options=options, selectable=selectable, secret=secret)
    wire = present(name=question, selectableOptionsCount=selectable)
    wire["options"] = [{"optionName": name} for name in options]
    content = Content("POLL", "poll", question, quote=quote, poll=poll, flags=message.flags)
    return Reading(content, {"pollCreationMessage": wire})


def _read_vote(key: str, message: Unwrapped, quote: Quote | None) -> Reading:
    node = message.keys[key]
    poll_key = as_dict(node.get("pollCreationMessageKey"))
    poll_id = as_id(poll_key.get("id")) or as_id(node.get("pollCreationMessageId"))
    raw_vote = as_dict(node.get("vote"))
    vote = deep_clean(raw_vote)
    vote.update((name, as_base64(raw_vote[name])) for name in ("encPayload", "encIv") if name in raw_vote)
    content = Content(
        "POLL_VOTE",
        "poll_choice",
        interactive=present(type="poll_choice", id=poll_id),
        quote=quote,
        poll={"id": poll_id, "vote": vote},
        flags=message.flags,
    )
    return Reading(content, {"pollUpdateMessage": present(pollCreationMessageId=poll_id, vote=vote)})


def _read_location(key: str, message: Unwrapped, quote: Quote | None) -> Reading:
    node = message.keys[key]
    place = read_place(node, "degreesLatitude", "degreesLongitude", "name")
    name = as_text(node.get("name"))
    content = Content("LOCATION", "location", name, location=place, quote=quote, flags=message.flags)
    wire = present(name=name, address=as_text(node.get("address")))
    if place:
        wire.update(degreesLatitude=place["latitude"], degreesLongitude=place["longitude"])
    return Reading(content, {key: wire})


def _read_cards(key: str, message: Unwrapped, quote: Quote | None) -> Reading:
    node = message.keys[key]
    cards = as_list(node.get("contacts")) if key == "contactsArrayMessage" else [node]
    contacts = [_read_card(as_dict(card)) for card in cards]
    names = ", ".join(card["displayName"] for card in contacts if "displayName" in card)
    text = names or as_text(node.get("displayName"))
    content = Content("CONTACT", "contact", text, contacts=contacts, quote=quote, flags=message.flags)
    wire = [{name: value for name, value in card.items() if name != "phones"} for card in contacts]
    return Reading(content, {key: {"contacts": wire} if key == "contactsArrayMessage" else wire[0]})


def _read_card(card: dict[str, Any]) -> dict[str, Any]:
    vcard = as_text(card.get("vcard"))
    phones: dict[str, None] = {}
    for line in (vcard or "").splitlines():
        name, _, value = line.partition(":")
        field, *parameters = name.split(";")
        if field.rpartition(".")[2].strip().upper() == "TEL" and value.strip():
            waid = next((p[5:] for p in parameters if p[:5].lower() == "waid="), "")
            phones[canonical_phone(waid) or read_card_phone(value.strip())] = None
    return present(displayName=as_text(card.get("displayName")), phones=list(phones), vcard=vcard)


def _read_unknown(key: str, message: Unwrapped, quote: Quote | None) -> Reading:
    kind = as_label(key) or "unknown"
    return Reading(Content("UNKNOWN", "unknown", quote=quote, unknown_kind=kind, flags=message.flags), {})


def _template_body(node: Any) -> str | None:
    for key in ("hydratedTemplate", "hydratedFourRowTemplate"):
        if text := as_text(as_dict(node.get(key)).get("hydratedContentText")):
            return text
    return None


# Where a kind that counts as text has its text.
BODIES: dict[str, Callable[[Any], str | None]] = {
    "conversation": as_text,
    "extendedTextMessage": lambda node: as_text(node.get("text")),
    "buttonsMessage": lambda node: as_text(node.get("contentText")),
    "listMessage": lambda node: first_text(node.get("description"), node.get("title")),
    "templateMessage": _template_body,
    "interactiveMessage": lambda node: as_text(as_dict(node.get("body")).get("text")),
}
# Media type, row type, word of the key derivation (section 10), key in the canonical message.
_FILES: dict[str, tuple[str, Any, str, str]] = {
    "imageMessage": ("image", "IMAGE", "Image", "imageMessage"),
    "stickerMessage": ("sticker", "STICKER", "Image", "imageMessage"),
    "videoMessage": ("video", "VIDEO", "Video", "videoMessage"),
    "ptvMessage": ("video", "VIDEO", "Video", "videoMessage"),
    "audioMessage": ("audio", "AUDIO", "Audio", "audioMessage"),
    "documentMessage": ("document", "DOCUMENT", "Document", "documentMessage"),
}
# The messageType word of each raw key we know.
KINDS: dict[str, str] = {
    **dict.fromkeys(BODIES, "text"),
    "imageMessage": "image",
    "stickerMessage": "image",
    "videoMessage": "video",
    "ptvMessage": "video",
    "audioMessage": "audio",
    "documentMessage": "document",
    "buttonsResponseMessage": "buttons_response",
    "templateButtonReplyMessage": "buttons_response",
    "interactiveResponseMessage": "buttons_response",
    "listResponseMessage": "list_response",
    "pollCreationMessage": "poll",
    "pollCreationMessageV2": "poll",
    "pollCreationMessageV3": "poll",
    "pollUpdateMessage": "poll_choice",
    "locationMessage": "location",
    "liveLocationMessage": "location",
    "contactMessage": "contact",
    "contactsArrayMessage": "contact",
    "reactionMessage": "reaction",
}
READERS: dict[str, Callable[[str, Unwrapped, Quote | None], Reading | None]] = {
    "text": _read_text,
    "image": _read_file,
    "video": _read_file,
    "audio": _read_file,
    "document": _read_file,
    "buttons_response": _read_reply,
    "list_response": _read_reply,
    "poll": _read_poll,
    "poll_choice": _read_vote,
    "location": _read_location,
    "contact": _read_cards,
    # A reaction is read by its own rule (section 11); inside an edited message it says nothing.
    "reaction": _read_unknown,
    "unknown": _read_unknown,
}
