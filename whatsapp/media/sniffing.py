"""What a file is, by its first bytes: what the sender calls it is not believed."""

from __future__ import annotations

import filetype

HEAD_BYTES = 8192
UNKNOWN = "application/octet-stream"
# Where the usual ending is not the one that people know.
_ENDINGS = {
    UNKNOWN: ".bin",
    "image/jpeg": ".jpg",
    "audio/ogg": ".ogg",
    "audio/mpeg": ".mp3",
    "video/quicktime": ".mov",
}
_INLINE = ("image/", "audio/", "video/")


def sniff(head: bytes) -> str:
    """The media type of a file by its first bytes; `application/octet-stream` for text and whatever is not known."""
    found = filetype.guess(head)
    return str(found.mime) if found else UNKNOWN


def ending(head_type: str) -> str:
    """The ending, with its dot, for a type that `sniff` gave."""
    if head_type in _ENDINGS:
        return _ENDINGS[head_type]
    known = filetype.get_type(mime=head_type)
    return f".{known.extension}" if known else ".bin"


def is_inline(mime_type: str) -> bool:
    """Whether a browser may show it in place: pictures but SVG, sound, video, PDF."""
    return mime_type == "application/pdf" or (mime_type.startswith(_INLINE) and "svg" not in mime_type)
