"""What an uploaded file is, by its content alone; whatever is not known to be harmless is refused (outbound.md 12).

What cannot be looked into (a locked archive, an archive of another kind) is refused, too.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Literal

from leadengine.errors import DomainError
from whatsapp.media.archives import DAMAGED, Archive, BadArchive, look_into
from whatsapp.media.isobmff import read_isobmff
from whatsapp.media.office import read_office
from whatsapp.media.signatures import is_executable, is_running_name
from whatsapp.media.texts import read_text

MediaType = Literal["image", "audio", "video", "document"]
HEAD_BYTES = 8192
_TAIL_BYTES = 66_000  # the end record of an archive and its longest comment
# None of these occurs in a picture or a sound by chance.
_MARKUP = re.compile(rb"<(?:script|html|svg|iframe|!doctype html|\?php)[\s>/]", re.IGNORECASE)


class UnsupportedFile(DomainError):
    """Este tipo de arquivo não pode ser enviado. Envie imagem, áudio, vídeo, PDF, documento do Office, texto ou zip."""

    code = "UNSUPPORTED_MEDIA_TYPE"
    status = 415


@dataclass(frozen=True, slots=True)
class Recognised:
    """What a file is. `ending` has its dot."""

    media_type: MediaType
    mime_type: str
    ending: str


_OOXML = "application/vnd.openxmlformats-officedocument."
_ODF = "application/vnd.oasis.opendocument."
_KNOWN = {
    "jpeg": Recognised("image", "image/jpeg", ".jpg"),
    "png": Recognised("image", "image/png", ".png"),
    "webp": Recognised("image", "image/webp", ".webp"),
    "opus": Recognised("audio", "audio/ogg", ".ogg"),
    "mp3": Recognised("audio", "audio/mpeg", ".mp3"),
    "m4a": Recognised("audio", "audio/mp4", ".m4a"),
    "aac": Recognised("audio", "audio/aac", ".aac"),
    "amr": Recognised("audio", "audio/amr", ".amr"),
    "mp4": Recognised("video", "video/mp4", ".mp4"),
    "3gp": Recognised("video", "video/3gpp", ".3gp"),
    "pdf": Recognised("document", "application/pdf", ".pdf"),
    "doc": Recognised("document", "application/msword", ".doc"),
    "xls": Recognised("document", "application/vnd.ms-excel", ".xls"),
    "ppt": Recognised("document", "application/vnd.ms-powerpoint", ".ppt"),
    "docx": Recognised("document", f"{_OOXML}wordprocessingml.document", ".docx"),
    "xlsx": Recognised("document", f"{_OOXML}spreadsheetml.sheet", ".xlsx"),
    "pptx": Recognised("document", f"{_OOXML}presentationml.presentation", ".pptx"),
    "odt": Recognised("document", f"{_ODF}text", ".odt"),
    "ods": Recognised("document", f"{_ODF}spreadsheet", ".ods"),
    "odp": Recognised("document", f"{_ODF}presentation", ".odp"),
    "odg": Recognised("document", f"{_ODF}graphics", ".odg"),
    "zip": Recognised("document", "application/zip", ".zip"),
    "txt": Recognised("document", "text/plain", ".txt"),
    "csv": Recognised("document", "text/csv", ".csv"),
}
_ARCHIVES = (b"PK\x03\x04", b"PK\x05\x06")
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"


def recognise(
    file: IO[bytes], *, size: int, name: str = "", examine: Callable[[bytes], None] = lambda _: None
) -> Recognised:
    """Say what a file is. `name` can only speak against it: text under the name of a script is a script.

    `examine` gets how each part of an archive begins. Raises: what that raises, and UnsupportedFile, its `reason` one
    of executable, markup, macros, archive, polyglot, unknown.
    """
    file.seek(0)
    head = file.read(HEAD_BYTES)
    if is_executable(head):
        raise UnsupportedFile(reason="executable")
    if head.startswith(_ARCHIVES):
        found: str = _in_archive(file, examine)
    elif head.startswith(_OLE):
        found = _in_office(file)
    else:
        found = _signature(head, file) or _in_text(file, name)
        _refuse_second_nature(file, size, found)
    return _KNOWN[found]


def _signature(head: bytes, file: IO[bytes]) -> str:
    """The word of a file that begins as its kind always does; nothing for others."""
    for start, word in (
        (b"\xff\xd8\xff", "jpeg"), (b"\x89PNG\r\n\x1a\n", "png"), (b"%PDF-", "pdf"), (b"ID3", "mp3"),
        (b"#!AMR\n", "amr"), (b"#!AMR-WB\n", "amr"),
    ):  # fmt: skip
        if head.startswith(start):
            return word
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp"
    if head.startswith(b"OggS"):
        if b"OpusHead" not in head[:64]:
            raise UnsupportedFile(reason="unknown")
        return "opus"
    if head[4:8] == b"ftyp":
        return _in_isobmff(file)
    return _mpeg_audio(head)


def _mpeg_audio(head: bytes) -> str:
    """`mp3` or `aac` when the first frame says where the next begins, and it does: a sync word alone is no proof."""
    if len(head) < 7 or head[0] != 0xFF:
        return ""
    if head[1] & 0xF6 == 0xF0:  # ADTS: the length of a frame stands in 13 bits
        length = (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5
        word = "aac"
    elif head[1] & 0xE6 == 0xE2:  # MPEG 1 or 2, layer III
        version1 = head[1] & 0x18 == 0x18
        rates = _MP3_RATES[version1]
        frequency = _MP3_HERTZ[head[1] >> 3 & 3][head[2] >> 2 & 3]
        rate = rates[head[2] >> 4]
        length = (144_000 if version1 else 72_000) * rate // frequency + (head[2] >> 1 & 1) if rate and frequency else 0
        word = "mp3"
    else:
        return ""
    follows = head[length : length + 2]
    same = follows == b"" or (len(follows) == 2 and follows[0] == 0xFF and follows[1] == head[1])
    return word if length >= 7 and same else ""


_MP3_RATES = {
    True: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 0),
    False: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 0),
}  # kbit/s
_MP3_HERTZ = (
    (11_025, 12_000, 8_000, 0), (0, 0, 0, 0), (22_050, 24_000, 16_000, 0), (44_100, 48_000, 32_000, 0),
)  # fmt: skip


def _in_archive(file: IO[bytes], examine: Callable[[bytes], None]) -> str:
    try:
        archive: Archive = look_into(file, examine=examine)
    except BadArchive as error:
        raise UnsupportedFile(reason=error.reason) from error
    return archive.kind


def _in_office(file: IO[bytes]) -> str:
    try:
        word = read_office(file)
    except DAMAGED:
        word = "archive"
    if word not in _KNOWN:
        raise UnsupportedFile(reason=word)
    return word


def _in_isobmff(file: IO[bytes]) -> str:
    try:
        word = read_isobmff(file)
    except DAMAGED:
        word = "unknown"
    if word not in _KNOWN:
        raise UnsupportedFile(reason="unknown")
    return word


def _in_text(file: IO[bytes], name: str) -> str:
    word = read_text(file)
    if word not in _KNOWN:
        raise UnsupportedFile(reason=word)
    if is_running_name(name):
        raise UnsupportedFile(reason="executable")
    return word


def _refuse_second_nature(file: IO[bytes], size: int, found: str) -> None:
    """Refuse what is something else, too: an archive at its end, or markup inside of a picture or a sound."""
    if found in {"txt", "csv"}:
        return
    file.seek(max(0, size - _TAIL_BYTES))
    tail = file.read(_TAIL_BYTES)
    if b"PK\x05\x06" in tail and b"PK\x01\x02" in tail:
        raise UnsupportedFile(reason="polyglot")
    if found == "pdf":  # tags may stand in its own text and metadata
        return
    file.seek(0)
    kept = b""
    while chunk := file.read(262_144):
        if _MARKUP.search(kept + chunk):
            raise UnsupportedFile(reason="polyglot")
        kept = chunk[-32:]
