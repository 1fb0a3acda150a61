"""The scan of an uploaded file, before anybody can have a link to it (spec/outbound.md section 12).

The built-in scanner knows the EICAR test file; with CLAMAV_URL every file is streamed to a clamd, too.
"""

from __future__ import annotations

import socket
import time
from typing import IO
from urllib.parse import SplitResult, urlsplit

import structlog
from django.conf import settings

from leadengine.errors import DomainError

log = structlog.get_logger(__name__)
CHUNK = 65_536
LONGEST = 30.0  # seconds, for all of one scan
# In two parts, so that this file is none.
EICAR = rb"X5O!P%@AP[4\PZX54(P^)7CC)7}" + rb"$EICAR-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*"
_ANSWER_BYTES = 4096


class FileInfected(DomainError):
    """O antivírus encontrou uma ameaça neste arquivo: ele não foi guardado."""

    code = "FILE_INFECTED"
    status = 422


class ScannerUnavailable(DomainError):
    """O antivírus não responde: tente de novo em instantes."""

    code = "SCANNER_UNAVAILABLE"
    status = 503


def scan_for_test_file(file: IO[bytes]) -> None:
    """Refuse the EICAR test file, as it is or in a text. Raises: FileInfected."""
    file.seek(0)
    kept = b""
    while chunk := file.read(CHUNK):
        refuse_test_file(kept + chunk)
        kept = chunk[-len(EICAR) :]


def refuse_test_file(data: bytes) -> None:
    """The same for bytes that are a part of a file, or of an archive. Raises: FileInfected."""
    if EICAR in data:
        raise FileInfected(threat="EICAR-Test-File")


def scan_by_clamd(file: IO[bytes]) -> None:
    """Stream a file to the configured clamd; none configured: nothing. Raises: FileInfected, ScannerUnavailable."""
    if not settings.CLAMAV_URL:
        return
    try:
        answer = _ask(urlsplit(settings.CLAMAV_URL), file)
    except OSError as error:  # a time-out is one, too
        log.warning("scanner_unavailable", error=type(error).__name__)
        raise ScannerUnavailable from error
    if answer.endswith("FOUND"):
        raise FileInfected(threat=answer.removeprefix("stream:").removesuffix("FOUND").strip()[:120])
    if answer != "stream: OK":
        log.warning("scanner_refused", answer=answer[:120])
        raise ScannerUnavailable


def _ask(address: SplitResult, file: IO[bytes]) -> str:
    """What clamd says of a file: INSTREAM of its protocol (man 8 clamd)."""
    end = time.monotonic() + LONGEST
    with socket.create_connection((address.hostname or "", address.port or 0), timeout=LONGEST) as connection:

        def allow() -> None:
            left = end - time.monotonic()
            if left <= 0:
                raise TimeoutError
            connection.settimeout(left)

        connection.sendall(b"zINSTREAM\0")
        file.seek(0)
        while chunk := file.read(CHUNK):
            allow()
            connection.sendall(len(chunk).to_bytes(4, "big") + chunk)
        connection.sendall(bytes(4))
        answer = b""
        while not answer.endswith(b"\0") and len(answer) < _ANSWER_BYTES:
            allow()
            part = connection.recv(_ANSWER_BYTES)
            if not part:
                break
            answer += part
    return answer.rstrip(b"\0\n").decode("utf-8", "replace").strip()
