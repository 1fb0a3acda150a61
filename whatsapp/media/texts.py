"""Plain text: told from markup, scripts and bytes that are no text. Reads a file in parts of 64 KiB."""

from __future__ import annotations

import codecs
import re
from typing import IO

CHUNK = 65_536
_OVERLAP = 64
_CONTROLS = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f\ufffe\uffff]")
_MARKUP_FIRST = re.compile(r"<[a-zA-Z!?/%]")
_MARKUP = re.compile(
    r"<(?:!doctype|html|head|body|script|svg|iframe|object|embed|applet|frameset|meta|link|style|base|form|math|"
    r"\?xml|\?php|\?=|xsl:)(?=[\s>/:]|$)",
    re.IGNORECASE,
)
_SCRIPT_FIRST = re.compile(r"#!|\{\\rtf|@echo\b|(?:rem|setlocal)\b.*\n\s*@?(?:echo|set|cd|start|del)\b", re.IGNORECASE)
_DELIMITERS = ";,\t"


def read_text(file: IO[bytes]) -> str:
    """`txt` or `csv`; else why not: `markup`, `executable`, `unknown`."""
    file.seek(0)
    start = file.read(CHUNK)
    # Latin text without Unicode is what older programs export here.
    for encoding in _encodings(start):
        try:
            return _read(file, encoding)
        except UnicodeError:
            continue
    return "unknown"


def _encodings(start: bytes) -> tuple[str, ...]:
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return ("utf-16",)
    return ("utf-8-sig", "cp1252")


def _read(file: IO[bytes], encoding: str) -> str:
    decoder = codecs.getincrementaldecoder(encoding)()
    file.seek(0)
    kept, beginning = "", ""
    while True:
        chunk = file.read(CHUNK)
        text = decoder.decode(chunk, final=not chunk)
        if _CONTROLS.search(text):
            return "unknown"
        if _MARKUP.search(kept + text):
            return "markup"
        kept = text[-_OVERLAP:]
        if len(beginning) < CHUNK:
            beginning += text
        if not chunk:
            break
    first = beginning.lstrip()
    if _MARKUP_FIRST.match(first):
        return "markup"
    if _SCRIPT_FIRST.match(first):
        return "executable"
    return "csv" if _is_table(beginning) else "txt"


def _is_table(beginning: str) -> bool:
    """Whether the first lines have the same number of the same delimiter."""
    lines = [line for line in beginning.splitlines()[:20] if line.strip()][:6]
    return len(lines) > 1 and any(
        lines[0].count(sign) and len({line.count(sign) for line in lines}) == 1 for sign in _DELIMITERS
    )
