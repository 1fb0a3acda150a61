"""Office files from before 2007: compound files ([MS-CFB]), told apart by the names in their directory."""

from __future__ import annotations

from typing import IO

_NAMES = {"worddocument": "doc", "workbook": "xls", "book": "xls", "powerpoint document": "ppt"}
_MACROS = {"_vba_project", "_vba_project_cur", "vba"}
_LOCKED = {"encryptedpackage", "encryptioninfo"}
_ENTRY = 128
_MOST_SECTORS = 4096  # of a directory
_IN_HEADER = 109  # entries of the table


class _Damaged(Exception):
    pass


def read_office(file: IO[bytes]) -> str:
    """`doc`, `xls`, `ppt`; else why not: `macros`, `archive` (locked or damaged), `unknown` (an installer, a mail)."""
    try:
        names = _names_in(file)
    except _Damaged:
        return "archive"
    if names & _LOCKED:
        return "archive"
    if names & _MACROS:
        return "macros"
    return next((_NAMES[name] for name in _NAMES if name in names), "unknown")


def _names_in(file: IO[bytes]) -> set[str]:
    """The names of all streams and storages, in lower case."""
    file.seek(0)
    head = file.read(512)
    shift = int.from_bytes(head[30:32], "little")
    if len(head) < 512 or shift not in {9, 12}:
        raise _Damaged
    size = 1 << shift
    sectors = file.seek(0, 2) // size
    table = _table(file, head, size, sectors)
    sector, names, seen = int.from_bytes(head[48:52], "little"), set(), 0
    while sector < 0xFFFFFFFA:
        seen += 1
        if seen > min(_MOST_SECTORS, sectors):
            raise _Damaged
        content = _sector(file, sector, size)
        for place in range(0, size, _ENTRY):
            length = int.from_bytes(content[place + 64 : place + 66], "little")
            if 2 <= length <= 64:
                names.add(content[place : place + length - 2].decode("utf-16-le", "replace").lower())
        sector = _next(file, table, sector, size)
    return names


def _table(file: IO[bytes], head: bytes, size: int, sectors: int) -> list[int]:
    """The sectors that hold the table of what follows what: the first 109 stand in the header, others in a chain."""
    most = _IN_HEADER + sectors + size // 4  # the last of the chain is filled up
    found = [int.from_bytes(head[place : place + 4], "little") for place in range(76, 512, 4)]
    more = int.from_bytes(head[68:72], "little")
    while more < 0xFFFFFFFA:
        if len(found) >= most:
            raise _Damaged
        content = _sector(file, more, size)
        found += [int.from_bytes(content[place : place + 4], "little") for place in range(0, size - 4, 4)]
        more = int.from_bytes(content[-4:], "little")
    return found


def _next(file: IO[bytes], table: list[int], sector: int, size: int) -> int:
    which, place = divmod(sector, size // 4)
    if which >= len(table) or table[which] >= 0xFFFFFFFA:
        raise _Damaged
    file.seek((table[which] + 1) * size + place * 4)
    return int.from_bytes(file.read(4).ljust(4, b"\0"), "little")


def _sector(file: IO[bytes], sector: int, size: int) -> bytes:
    file.seek((sector + 1) * size)
    content = file.read(size)
    if len(content) < size:
        raise _Damaged
    return content
