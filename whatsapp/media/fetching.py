"""One file: fetched, read, checked and put aside in a temporary file. No database here."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO

from leadengine.ssrf import Answer, Blocked, Gate, TooManyRedirects, Unreachable, opened
from whatsapp.media.sniffing import HEAD_BYTES, sniff
from whatsapp.media.source import Plan

IN_MEMORY = 1_048_576  # a larger file waits on disk
LONGEST = 900.0  # seconds that one download may last, however slowly it goes on


@dataclass(frozen=True, slots=True)
class Fetched:
    """A file that passed all checks, at its first byte. Close `file`."""

    file: IO[bytes]
    size: int
    sha256: str
    mime_type: str


class Gone(Exception):
    """The server has it no more."""


class TooLarge(Exception):
    """More bytes than are allowed."""


class Rejected(Exception):
    """The server answered something that another try will not change."""

    def __init__(self, status: int) -> None:
        super().__init__(f"http_{status}")


class Busy(Exception):
    """The server asks for another try later: a 5xx or 429."""

    def __init__(self, status: int) -> None:
        super().__init__(f"http_{status}")


class Interrupted(Exception):
    """We stop working, not they."""


def fetch(plan: Plan, *, gate: Gate, most_bytes: int, stopped: Callable[[], bool]) -> Fetched:
    """Fetch a file from the first of its addresses that is allowed.

    Raises: Blocked, Damaged, Gone, TooLarge, Rejected, TooManyRedirects, Busy, Unreachable, Interrupted.
    """
    first, *others = plan.urls
    try:
        return _fetch(first, plan, gate, most_bytes, stopped)
    except Blocked as blocked:
        if blocked.hop or not others:
            raise
        try:
            return _fetch(others[0], plan, gate, most_bytes, stopped)
        except (Gone, Rejected, TooManyRedirects, Busy, Unreachable):
            # What the message names is forbidden and where it should lie it does not: waiting helps neither.
            raise blocked from None


def _fetch(url: str, plan: Plan, gate: Gate, most_bytes: int, stopped: Callable[[], bool]) -> Fetched:
    file: IO[bytes] = tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115 - lives on in what is returned
    try:
        with opened(url, gate) as answer:
            _refuse(answer, most_bytes)
            return _read(answer, plan, file, most_bytes, stopped)
    except BaseException:
        file.close()
        raise


def _refuse(answer: Answer, most_bytes: int) -> None:
    status = answer.status
    if status in {404, 410}:
        raise Gone
    if status >= 500 or status == 429:
        raise Busy(status)
    if status != 200:
        raise Rejected(status)
    declared = answer.headers.get("Content-Length") or ""
    if declared.isdecimal() and int(declared) > most_bytes:
        raise TooLarge


def _read(answer: Answer, plan: Plan, file: IO[bytes], most_bytes: int, stopped: Callable[[], bool]) -> Fetched:
    reader, taken, end = plan.reader(), 0, time.monotonic() + LONGEST
    for chunk in answer.chunks:
        if stopped():
            raise Interrupted
        if time.monotonic() > end:
            raise Unreachable("too slow")
        taken += len(chunk)
        if taken > most_bytes:
            raise TooLarge
        file.write(reader.update(chunk))
    file.write(reader.finish())
    size = file.tell()
    file.seek(0)
    mime_type = sniff(file.read(HEAD_BYTES))
    file.seek(0)
    return Fetched(file, size, reader.sha256, mime_type)
