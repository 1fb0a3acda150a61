"""What is inside a zip, an Office document (OOXML) or an OpenDocument: of each part its name, and how it begins.

Refused: what runs, by name or by content, at any depth; what cannot be looked into; and bombs.
"""

from __future__ import annotations

import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from whatsapp.media.signatures import is_executable, is_running_name

HEAD_BYTES = 4096
MOST_PARTS = 10_000  # a larger one is no document that people send
MOST_UNPACKED = 536_870_912  # bytes, of all parts together
MOST_NESTED = 67_108_864  # bytes of an archive within an archive
DEEPEST = 3
_STEEPEST = 200  # bytes unpacked for one packed, on the whole; what Office writes stays below 50
_STEEP_FROM = 33_554_432  # smaller ones do no harm, however steep
_MACROS = ("vbaproject.bin", "vbadata.xml", "/basic/", "/scripts/")
_OTHER_ARCHIVES = (
    b"Rar!\x1a\x07", b"7z\xbc\xaf\x27\x1c", b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"MSCF", b"\x28\xb5\x2f\xfd",
    b"\x04\x22\x4d\x18", b"\x1f\x9d", b"LZIP", b"xar!",
)  # fmt: skip
_ZIP = (b"PK\x03\x04", b"PK\x05\x06", b"PK00PK\x03\x04")
_OOXML = {"word/document": "docx", "xl/workbook": "xlsx", "ppt/presentation": "pptx"}
_ODF = {"text": "odt", "spreadsheet": "ods", "presentation": "odp", "graphics": "odg"}
_ODF_TYPE = b"application/vnd.oasis.opendocument."


class BadArchive(Exception):
    """It is refused; `reason` is executable, macros, archive (damaged, locked, a bomb, of another kind) or polyglot."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Archive:
    """`kind` is zip, docx, xlsx, pptx, odt, ods, odp or odg."""

    kind: str


def look_into(file: IO[bytes], *, depth: int = 1) -> Archive:
    """Say what an archive is, after a look at every part of it. Raises: BadArchive."""
    try:
        with zipfile.ZipFile(file) as archive:
            parts = archive.infolist()
            _refuse_unruly(file, archive, parts)
            for part, head in _heads(archive, parts):
                if is_executable(head) or is_running_name(part.filename):
                    raise BadArchive("executable")
                if head.startswith(_OTHER_ARCHIVES):
                    raise BadArchive("archive")
                if head.startswith(_ZIP):
                    _look_deeper(archive, part, depth)
            kind = _kind_of(archive, parts)
            if kind != "zip" and any(word in f"/{part.filename.lower()}" for part in parts for word in _MACROS):
                raise BadArchive("macros")
            return Archive(kind)
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError, RuntimeError, ValueError, OSError) as error:
        raise BadArchive("archive") from error


def heads_of(file: IO[bytes]) -> Iterator[bytes]:
    """How each part of an archive begins, one level deep; nothing where it cannot be read."""
    file.seek(0)
    if not file.read(4).startswith(_ZIP):
        return
    try:
        with zipfile.ZipFile(file) as archive:
            for _, head in _heads(archive, archive.infolist()[:MOST_PARTS]):
                yield head
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError, RuntimeError, ValueError, OSError):
        return


def _heads(archive: zipfile.ZipFile, parts: list[zipfile.ZipInfo]) -> Iterator[tuple[zipfile.ZipInfo, bytes]]:
    for part in parts:
        if part.flag_bits & 1:  # locked
            raise BadArchive("archive")
        if not part.is_dir():
            with archive.open(part) as content:
                yield part, content.read(HEAD_BYTES)


def _refuse_unruly(file: IO[bytes], archive: zipfile.ZipFile, parts: list[zipfile.ZipInfo]) -> None:
    unpacked, packed = sum(part.file_size for part in parts), sum(part.compress_size for part in parts)
    if len(parts) > MOST_PARTS or unpacked > MOST_UNPACKED:
        raise BadArchive("archive")
    if unpacked > _STEEP_FROM and unpacked > _STEEPEST * max(packed, 1):
        raise BadArchive("archive")
    # Something else before or after the archive: two programs would read two different files.
    file.seek(0, 2)
    size = file.tell()
    begins = min((part.header_offset for part in parts), default=0)
    if begins != 0 or packed > size:
        raise BadArchive("polyglot")
    file.seek(max(0, size - 22 - len(archive.comment)))
    if file.read(4) != b"PK\x05\x06":
        raise BadArchive("polyglot")


def _look_deeper(archive: zipfile.ZipFile, part: zipfile.ZipInfo, depth: int) -> None:
    if depth >= DEEPEST:
        raise BadArchive("archive")
    with tempfile.SpooledTemporaryFile(1_048_576) as inner, archive.open(part) as content:
        left = MOST_NESTED
        while chunk := content.read(65_536):
            left -= len(chunk)
            if left < 0:
                raise BadArchive("archive")
            inner.write(chunk)
        look_into(inner, depth=depth + 1)


def _kind_of(archive: zipfile.ZipFile, parts: list[zipfile.ZipInfo]) -> str:
    names = {part.filename for part in parts}
    if "[Content_Types].xml" in names:
        for name in names:
            if (stem := name.rpartition(".")[0]) in _OOXML:
                return _OOXML[stem]
    if parts and parts[0].filename == "mimetype":
        with archive.open(parts[0]) as content:
            written = content.read(100)
        if written.startswith(_ODF_TYPE):
            subtype = written.removeprefix(_ODF_TYPE).decode("ascii", "replace").removesuffix("-template").strip()
            return _ODF.get(subtype, "zip")
    return "zip"
