"""What the thread shows of a file: a picture, a player, a card, or why it is not there."""

from __future__ import annotations

from typing import Any

from django import template
from django.utils.translation import gettext as _

register = template.Library()

# What browsers draw; a photo in any other format is a card to download.
_PICTURES = {"image/jpeg", "image/png", "image/gif", "image/webp", "image/avif", "image/bmp"}
_FILMS = {"video/mp4", "video/webm", "video/quicktime", "video/3gpp", "video/x-m4v"}


@register.filter
def player(media: Any) -> str:
    """`image`, `video`, `audio` or `file` for a file that is stored here; nothing while it is not.

    By what the bytes are, not by what the message calls them; an MP4 of sound alone is heard.
    """
    if media is None or media.state != "ready" or not media.storage_key:
        return ""
    if media.mime_type in _PICTURES:
        return "image"
    if media.mime_type.startswith("audio/") or (media.media_type == "audio" and media.mime_type in _FILMS):
        return "audio"
    return "video" if media.mime_type in _FILMS else "file"


@register.filter
def media_words(media: Any) -> str:
    """How a file stands that is not there, in words."""
    if media is None:
        return ""
    match media.state:
        case "ready":
            return _("stored") if media.storage_key else ""
        case "expired":
            return _("no longer available at WhatsApp")
        case "failed":
            return _failure(media.reason)
        case "downloading":
            return _("being fetched…")
    if media.reason:
        return _("%(why)s, trying again") % {"why": _failure(media.reason)}
    return _("waits to be fetched")


def _failure(reason: str) -> str:
    known = {
        "integrity": _("the file arrived damaged"),
        "blocked_address": _("its address is not allowed"),
        "media_keys_missing": _("WhatsApp did not send its keys"),
        "too_large": _("larger than allowed"),
        "network": _("WhatsApp's file server did not answer"),
    }
    if reason in known:
        return known[reason]
    if reason.startswith("http_5") or reason == "http_429":
        return known["network"]
    if reason.startswith("storage_"):
        return _("our file store did not answer")
    return _("could not be fetched")
