"""From what a message says of its file to where it is fetched and how it is read. Pure."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urljoin, urlsplit

from whatsapp.media.crypto import KEY_BYTES, Decryptor, Kind, Plain

_KINDS = {"Image", "Video", "Audio", "Document"}
_WHATSAPP = "whatsapp.net"
ENCRYPTED = ".enc"


@dataclass(frozen=True, slots=True)
class Plan:
    """Where a file may be fetched, in order (the second only when the first is not allowed), and its keys."""

    urls: tuple[str, ...]
    media_key: bytes | None
    kind: Kind
    enc_sha256: bytes | None
    file_sha256: bytes | None

    def reader(self) -> Decryptor | Plain:
        """What turns the fetched bytes into the file."""
        if self.media_key is None:
            return Plain(file_sha256=self.file_sha256)
        return Decryptor(
            media_key=self.media_key, kind=self.kind, enc_sha256=self.enc_sha256, file_sha256=self.file_sha256
        )


def plan_of(source: Mapping[str, Any], *, host: str) -> Plan | None:
    """How to fetch a file; None while the message lacks its address, or the key of an encrypted one.

    `host` (`https://…`) is where `directPath` lies. Without key only an address that is not WhatsApp's is read.
    """
    url, path = str(source.get("url") or ""), str(source.get("directPath") or "")
    media_key = _bytes(source.get("mediaKey"), KEY_BYTES)
    urls = [url] if url else []
    if path and media_key is not None:
        there = urljoin(host.rstrip("/") + "/", path)
        # A path that names another host (`//elsewhere/x`) is not a path.
        if there not in urls and _host(there) == _host(host):
            urls.append(there)
    if not urls or (media_key is None and _is_encrypted(url)):
        return None
    kind = source.get("mediaKind")
    return Plan(
        tuple(urls),
        media_key,
        cast("Kind", kind if kind in _KINDS else "Document"),
        _bytes(source.get("fileEncSha256"), 32) if media_key else None,
        _bytes(source.get("fileSha256"), 32),
    )


def _is_encrypted(url: str) -> bool:
    host = _host(url)
    try:
        path = urlsplit(url).path
    except ValueError:
        return False
    return host == _WHATSAPP or host.endswith(f".{_WHATSAPP}") or path.lower().endswith(ENCRYPTED)


def _host(url: str) -> str:
    try:
        return (urlsplit(url).hostname or "").rstrip(".").lower()
    except ValueError:
        return ""


def _bytes(text: Any, length: int) -> bytes | None:
    if not isinstance(text, str):
        return None
    padded = text.strip().replace("-", "+").replace("_", "/")
    try:
        found = base64.b64decode(padded + "=" * (-len(padded) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None
    return found if len(found) == length else None
