"""What is inside a zip, an Office document (OOXML) or an OpenDocument: of each part its name, and how it begins.

Refused: what runs, by name or by content, at any depth; what cannot be looked into; what is written as no program
for people writes it (zip64, other packings than deflate); and bombs. One budget holds for all depths together.
"""

from __future__ import annotations

import struct
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO

from whatsapp.media.signatures import is_executable, is_running_name

HEAD_BYTES = 4096
MOST_PARTS = 10_000  # of all depths together; what has more is no document that people send
MOST_UNPACKED = 536_870_912  # bytes, of all parts together
MOST_NESTED = 67_108_864  # bytes of all archives within archives
MOST_SECONDS = 5.0  # of this thread's work
DEEPEST = 3
_MOST_DIRECTORY = 4_194_304  # bytes
_PACKINGS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}  # the others are unpacked without a bound on memory
_END = 22  # bytes of the end record, without its comment
_LONGEST_COMMENT = 65_535
# What parsers raise for damage.
DAMAGED = (
    zipfile.BadZipFile, zlib.error, struct.error, NotImplementedError, EOFError, RuntimeError, ValueError,
    OverflowError, OSError,
)  # fmt: skip
_STEEPEST = 200  # bytes unpacked for one packed, on the whole; what Office writes stays below 50
_STEEP_FROM = 33_554_432  # smaller ones do no harm, however steep
_MACROS = ("vbaproject.bin", "vbadata.xml")
_ODF_MACROS = ("/basic/", "/scripts/")
_ODF_MARK = "meta-inf/manifest.xml"
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


@dataclass(slots=True)
class _Budget:
    """What is left for an archive and all within it. Raises: BadArchive when something of it is used up."""

    parts: int = field(default_factory=lambda: MOST_PARTS)
    unpacked: int = field(default_factory=lambda: MOST_NESTED)
    end: float = field(default_factory=lambda: time.thread_time() + MOST_SECONDS)

    def take(self, *, parts: int = 0, unpacked: int = 0) -> None:
        self.parts -= parts
        self.unpacked -= unpacked
        if self.parts < 0 or self.unpacked < 0 or time.thread_time() > self.end:
            raise BadArchive("archive")


def look_into(file: IO[bytes], *, examine: Callable[[bytes], None]) -> Archive:
    """Say what an archive is, after a look at every part of it; `examine` gets how each of them begins, at any depth.

    Raises: BadArchive, and what `examine` raises.
    """
    return _look_into(file, examine, _Budget(), depth=1)


def _look_into(file: IO[bytes], examine: Callable[[bytes], None], budget: _Budget, *, depth: int) -> Archive:
    try:
        count = _count_parts(file)
        budget.take(parts=count)
        with zipfile.ZipFile(file) as archive:
            parts = archive.infolist()
            _refuse_unruly(file, parts)
            for part, head in _heads(archive, parts, budget):
                examine(head)
                if is_executable(head) or is_running_name(part.filename):
                    raise BadArchive("executable")
                if head.startswith(_OTHER_ARCHIVES):
                    raise BadArchive("archive")
                if head.startswith(_ZIP):
                    if depth >= DEEPEST:
                        raise BadArchive("archive")
                    with _unpacked(archive, part, budget) as inner:
                        _look_into(inner, examine, budget, depth=depth + 1)
            names = [part.filename.lower().replace("\\", "/") for part in parts]
            kind = _kind_of(archive, parts, names)
            _refuse_macros(kind, names)
            return Archive(kind)
    except DAMAGED as error:
        raise BadArchive("archive") from error


def _count_parts(file: IO[bytes]) -> int:
    """How many parts there are, by the end record, before anything is made of the directory."""
    size = file.seek(0, 2)
    file.seek(max(0, size - _END - _LONGEST_COMMENT))
    tail = file.read()
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) - at < _END:
        raise BadArchive("archive")
    count, length, begins, comment = struct.unpack("<HIIH", tail[at + 10 : at + _END])
    if tail[max(0, at - 20) : at].startswith(b"PK\x06\x07") or count > MOST_PARTS or length > _MOST_DIRECTORY:
        raise BadArchive("archive")
    # Something else between the parts and the end, or behind it: two programs would read two different files.
    if begins + length != size - len(tail) + at or comment != len(tail) - at - _END:
        raise BadArchive("polyglot")
    file.seek(begins)
    if file.read(length).count(b"PK\x01\x02") != count:
        raise BadArchive("archive")
    return int(count)


def _refuse_unruly(file: IO[bytes], parts: list[zipfile.ZipInfo]) -> None:
    unpacked, packed = sum(part.file_size for part in parts), sum(part.compress_size for part in parts)
    if unpacked > MOST_UNPACKED or (unpacked > _STEEP_FROM and unpacked > _STEEPEST * max(packed, 1)):
        raise BadArchive("archive")
    if any(part.flag_bits & 1 or part.compress_type not in _PACKINGS for part in parts):  # locked, or packed oddly
        raise BadArchive("archive")
    if min((part.header_offset for part in parts), default=0) != 0 or packed > file.seek(0, 2):
        raise BadArchive("polyglot")


def _heads(
    archive: zipfile.ZipFile, parts: list[zipfile.ZipInfo], budget: _Budget
) -> Iterator[tuple[zipfile.ZipInfo, bytes]]:
    for part in parts:
        budget.take()
        if not part.is_dir():
            with archive.open(part) as content:
                yield part, content.read(HEAD_BYTES)


@contextmanager
def _unpacked(archive: zipfile.ZipFile, part: zipfile.ZipInfo, budget: _Budget) -> Iterator[IO[bytes]]:
    with tempfile.SpooledTemporaryFile(1_048_576) as inner, archive.open(part) as content:
        while chunk := content.read(65_536):
            budget.take(unpacked=len(chunk))
            inner.write(chunk)
        yield inner


def _refuse_macros(kind: str, names: list[str]) -> None:
    is_odf = kind != "zip" or _ODF_MARK in names
    words = _MACROS + _ODF_MACROS if is_odf else _MACROS
    if any(word in f"/{name}" for name in names for word in words):
        raise BadArchive("macros")


def _kind_of(archive: zipfile.ZipFile, parts: list[zipfile.ZipInfo], names: list[str]) -> str:
    """`names` in lower case: Office does not look at it."""
    if "[content_types].xml" in names:
        for name in names:
            if (stem := name.rpartition(".")[0]) in _OOXML:
                return _OOXML[stem]
    if names and names[0] == "mimetype":
        with archive.open(parts[0]) as content:
            written = content.read(100)
        if written.startswith(_ODF_TYPE):
            subtype = written.removeprefix(_ODF_TYPE).decode("ascii", "replace").removesuffix("-template").strip()
            return _ODF.get(subtype, "zip")
    return "zip"
