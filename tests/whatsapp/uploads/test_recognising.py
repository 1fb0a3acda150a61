"""What a file is, by its content; what is refused, and why. No database."""

from __future__ import annotations

import contextlib
import io
import zipfile
import zlib

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
)
from whatsapp.media.recognising import UnsupportedFile, recognise
from whatsapp.media.scanning import FileInfected, scan_for_test_file


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


@pytest.mark.parametrize(
    "data",
    [
        TEST_VIRUS, b"x" * 65_500 + TEST_VIRUS, zipped(eicar__com=TEST_VIRUS), zipped(a__txt="x", b__txt=TEST_VIRUS),
    ],
)  # fmt: skip
def test_the_test_virus_is_found(data: bytes) -> None:
    with pytest.raises(FileInfected):
        scan_for_test_file(io.BytesIO(data))


@pytest.mark.parametrize("data", [JPEG, b"", b"PK\x03\x04", zipped(a__txt="x"), TEST_VIRUS[:-5]])
def test_no_false_alarm(data: bytes) -> None:
    scan_for_test_file(io.BytesIO(data))
