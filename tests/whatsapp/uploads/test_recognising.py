"""What a file is, by its content; what is refused, and why. No database."""

from __future__ import annotations

import contextlib
import io
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.whatsapp.uploads.files import (
    EXE,
    HTML,
    JPEG,
    OGG,
    PDF,
    PNG,
    SVG,
    TEST_VIRUS,
    WEBP,
    aac,
    isobmff,
    mp3,
    odf,
    ole,
    ooxml,
    zipped,
    zipped_as,
)
from whatsapp.media import archives
from whatsapp.media.recognising import UnsupportedFile, recognise
from whatsapp.media.scanning import FileInfected, refuse_test_file, scan_for_test_file


def kind(data: bytes, name: str = "") -> str:
    return recognise(io.BytesIO(data), size=len(data), name=name).ending


def reason(data: bytes, name: str = "") -> str:
    with pytest.raises(UnsupportedFile) as refused:
        recognise(io.BytesIO(data), size=len(data), name=name)
    return str(refused.value.details["reason"])


@pytest.mark.parametrize(
    ("data", "ending"),
    [
        (JPEG, ".jpg"), (PNG, ".png"), (WEBP, ".webp"), (OGG, ".ogg"), (mp3(), ".mp3"),
        (b"ID3\x04" + bytes(90), ".mp3"),
        (aac(), ".aac"), (b"#!AMR\n" + bytes(40), ".amr"), (isobmff(b"M4A ", b"isom"), ".m4a"),
        (isobmff(b"isom", b"mp42", track=b"soun"), ".m4a"), (isobmff(b"mp42", b"isom"), ".mp4"),
        (isobmff(b"3gp5", b"isom"), ".3gp"), (PDF, ".pdf"), (ole("WordDocument", "1Table"), ".doc"),
        (ole("Workbook"), ".xls"), (ole("PowerPoint Document"), ".ppt"), (ooxml("word/document.xml"), ".docx"),
        (ooxml("xl/workbook.xml"), ".xlsx"), (ooxml("ppt/presentation.xml"), ".pptx"), (odf("text"), ".odt"),
        (odf("spreadsheet"), ".ods"), (zipped(a__txt="x"), ".zip"), (zipped(a__zip=zipped(b__pdf=PDF)), ".zip"),
        ("olá, tudo bem?\n".encode(), ".txt"), ("olá\n".encode("latin-1"), ".txt"), ("olá".encode("utf-16"), ".txt"),
        (b"MZ e tal: nada que rode em lugar nenhum, apenas um texto que inicia assim.", ".txt"),
        (b"nome;valor\nAna;1\nBruno;2\n", ".csv"), (b"preco < 10 e > 2\n", ".txt"),
    ],
)  # fmt: skip
def test_what_is_accepted_is_known_by_its_content(data: bytes, ending: str) -> None:
    assert kind(data, "foto.exe" if ending not in {".txt", ".csv"} else "lista.pdf") == ending


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (EXE, "executable"), (b"\x7fELF" + bytes(60), "executable"), (b"\xcf\xfa\xed\xfe" + bytes(60), "executable"),
        (b"#!/bin/sh\nrm -r x\n", "executable"), (b"\xef\xbb\xbf#!/usr/bin/python\n", "executable"),
        (b"@echo off\r\ndel x\r\n", "executable"), (HTML, "markup"), (SVG, "markup"), (b"  \n" + SVG, "markup"),
        (b"<?xml version='1.0'?><a/>", "markup"), ("<html>".encode("utf-16"), "markup"), (b"{\\rtf1 x}", "executable"),
        (b"bom dia " * 20_000 + b"<ScRipT src=x>", "markup"), (b"<?php echo 1;", "markup"),
        (zipped(a__exe="x"), "executable"), (zipped(foto__jpg=EXE), "executable"), (zipped(a__js="x"), "executable"),
        (zipped(dir___b__zip=zipped(c__zip=zipped(d__png=EXE))), "executable"),
        (ooxml("word/document.xml", word___x=b"x", **{"word/embeddings/a.bin": EXE}), "executable"),
        (ooxml("word/document.xml", **{"word/vbaProject.bin": b"x"}), "macros"),
        (odf("text", **{"Basic/script-lc.xml": "x"}), "macros"), (ole("WordDocument", "VBA"), "macros"),
        (ole("EncryptedPackage"), "archive"), (ole("__properties_version1.0"), "unknown"), (ole()[:600], "archive"),
        (zipped(a__7z=b"7z\xbc\xaf\x27\x1c" + bytes(9)), "archive"), (zipped(a__txt=bytes(80_000_000)), "archive"),
        (zipped(a=zipped(b=zipped(c=zipped(d="x")))), "archive"), (zipped(a__txt="x")[:-9], "archive"),
        (zipped(a__txt="x") + b"more", "polyglot"), (JPEG + zipped(a__txt="x"), "polyglot"),
        (b"%PDF-1.7\n" + zipped(a__txt="x"), "polyglot"), (JPEG[:200] + b"<script>alert(1)</script>", "polyglot"),
        (isobmff(b"qt  ", b"qt  "), "unknown"), (isobmff(b"heic", b"mif1"), "unknown"),
        (b"GIF89a" + bytes(30), "unknown"),
        (b"OggS" + bytes(24) + b"\x01vorbis" + bytes(30), "unknown"), (b"\xff\xfb\x90\x00" + b"x" * 900, "unknown"),
        (bytes(range(256)), "unknown"), (b"a\0b", "unknown"), (b"\x1f\x8b\x08" + bytes(30), "unknown"),
    ],
)  # fmt: skip
def test_what_is_refused_says_why(data: bytes, why: str) -> None:
    assert reason(data, "inocente.jpg") == why


def test_text_under_the_name_of_a_script_is_a_script() -> None:
    assert kind(b"Dim x", "nota.txt") == ".txt"
    for name in ("nota.vbs", "nota.txt.BAT", "x.ps1 ", "x.js."):
        assert reason(b"Dim x", name) == "executable"


def test_a_locked_archive_cannot_be_looked_into() -> None:
    data = bytearray(zipped(a__txt="x"))
    for start, flag in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(start) + flag] |= 1
    assert reason(bytes(data)) == "archive"


def test_archives_with_too_many_parts_and_with_parts_that_lie() -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for number in range(10_001):
            archive.writestr(str(number), b"")
    assert reason(file.getvalue()) == "archive"
    data = bytearray(zipped(a__txt="abc" * 100))
    place = data.index(b"PK\x01\x02")
    data[place + 16 : place + 20] = zlib.crc32(b"other").to_bytes(4, "little")
    assert reason(bytes(data)) == "archive"


STARTS = [b"", b"PK\x03\x04", ole()[:512], b"\x00\x00\x00\x18ftypmp42", b"ID3", b"\xff\xfb"]


@given(st.binary(max_size=600), st.sampled_from(STARTS))
def test_nothing_crashes_it(data: bytes, start: bytes) -> None:
    with contextlib.suppress(UnsupportedFile):
        recognise(io.BytesIO(start + data), size=len(start) + len(data))


def most_memory(work: Callable[[], object]) -> int:
    """Bytes that a piece of work has held at most."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def packed(method: int, data: bytes = b"x" * 200) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr("a.txt", data)
    return file.getvalue()


def test_only_what_is_unpacked_within_bounds_is_unpacked() -> None:
    assert {kind(packed(method)) for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)} == {".zip"}
    for method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        assert reason(packed(method)) == "archive"
        assert reason(zipped(a=packed(method))) == "archive"
        # Declared small, unpacks to 32 MB in one step.
        bomb = bytearray(packed(method, bytes(32_000_000)))
        bomb[bomb.index(b"PK\x01\x02") + 24 :][:4] = (10).to_bytes(4, "little")
        assert most_memory(partial(reason, bytes(bomb))) < 2_000_000


@pytest.mark.parametrize(("name", "most"), [("MOST_PARTS", 20), ("MOST_NESTED", 2500), ("MOST_SECONDS", -1)])
def test_archives_within_archives_share_one_budget(monkeypatch: pytest.MonkeyPatch, name: str, most: int) -> None:
    inner = zipped_as({f"{number}.txt": "x" for number in range(6)})
    once, often = zipped(a=inner), zipped_as({str(number): inner for number in range(6)})
    assert (kind(once), kind(often)) == (".zip", ".zip")
    monkeypatch.setattr(archives, name, most)
    assert name == "MOST_SECONDS" or kind(once) == ".zip"
    assert reason(often) == "archive"


def test_a_directory_is_counted_before_it_is_read() -> None:
    """Neither the number that it tells nor 16 MiB of it make a process large."""
    one = b"PK\x01\x02" + bytes(42)
    for told in (5, 65_535):
        directory = one * 100_000
        end = (
            b"PK\x05\x06" + bytes(4) + told.to_bytes(2, "little") * 2 + len(directory).to_bytes(4, "little") + bytes(6)
        )
        data = directory + end
        assert most_memory(partial(reason, b"PK\x03\x04" + data)) < 2 * len(data)
    small = one * 50_000
    end = b"PK\x05\x06" + bytes(4) + (5).to_bytes(2, "little") * 2 + len(small).to_bytes(4, "little")
    data = b"PK\x03\x04" + small + end + (4).to_bytes(4, "little") + bytes(2)
    assert most_memory(lambda: reason(data)) < 2 * len(data)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for number in range(70):
            part = zipfile.ZipInfo(str(number))
            part.comment = bytes(65_000)
            archive.writestr(part, "x")
    assert reason(file.getvalue()) == "archive"
    assert reason(zipped(a="x")[:-22] + b"PK\x06\x07" + bytes(16) + zipped(a="x")[-22:]) == "archive"  # zip64


def test_a_chain_that_comes_back_to_itself_ends() -> None:
    data = bytearray(ole("WordDocument") + bytes(8192))
    data[68:72] = (3).to_bytes(4, "little")  # the table goes on in sector 3, and there again
    data[4 * 512 + 508 : 5 * 512] = (3).to_bytes(4, "little")
    assert most_memory(lambda: reason(bytes(data))) < 1_000_000


def test_places_behind_all_files_are_no_places() -> None:
    film = b"\0\0\0\x10ftypmp42\0\0\0\0" + b"\0\0\0\x01free" + b"\xff" * 8
    assert kind(film) == ".mp4"
    data = bytearray(zipped(a="x", b="x"))
    at = data.rindex(b"PK\x01\x02")
    data[at + 42 : at + 46] = b"\xff" * 4  # the place of the second part stands in 64 bits behind its name
    extra = b"\x01\0\x08\0" + b"\xff" * 8
    data[at + 30 : at + 32] = len(extra).to_bytes(2, "little")
    data[at + 47 : at + 47] = extra
    end = data.index(b"PK\x05\x06")
    data[end + 12 : end + 16] = (2 * 47 + len(extra)).to_bytes(4, "little")
    assert reason(bytes(data)) == "archive"


def test_macros_are_found_whatever_the_letters_and_the_kind() -> None:
    assert reason(zipped(word___VBAPROJECT__BIN="x")) == "macros"
    assert (
        reason(zipped_as({"[content_types].XML": "x", "Word/Document.xml": "x", "WORD\\VbaData.xml": "x"})) == "macros"
    )
    assert reason(zipped_as({"content.xml": "x", "META-INF/manifest.xml": "x", "Basic/a/b.xml": "x"})) == "macros"
    assert kind(zipped_as({"[content_types].XML": "x", "Word/Document.xml": "x"})) == ".docx"
    assert kind(zipped_as({"fotos/scripts/a.txt": "x"})) == ".zip"


@pytest.mark.parametrize(
    "data",
    [
        TEST_VIRUS, b"x" * 65_500 + TEST_VIRUS, zipped(eicar__com=TEST_VIRUS), zipped(a__txt="x", b__txt=TEST_VIRUS),
        zipped(a=zipped(b__txt=TEST_VIRUS)),
    ],
)  # fmt: skip
def test_the_test_virus_is_found(data: bytes) -> None:
    def look() -> None:
        scan_for_test_file(io.BytesIO(data))
        recognise(io.BytesIO(data), size=len(data), examine=refuse_test_file)

    with pytest.raises(FileInfected):
        look()


@pytest.mark.parametrize("data", [JPEG, b"", b"PK\x03\x04", zipped(a__txt="x"), TEST_VIRUS[:-5]])
def test_no_false_alarm(data: bytes) -> None:
    scan_for_test_file(io.BytesIO(data))
