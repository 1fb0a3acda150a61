"""A kept file as an HTTP answer: whole or a part, and how a browser is told to treat it.

The bytes pass through us, from a bucket too: so `nosniff` and the sandbox stand on every answer, the page's content
policy needs no foreign origin, and the store no way to the browser.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any
from uuid import UUID

import structlog
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest, HttpResponse, HttpResponseBase, StreamingHttpResponse
from django.utils.http import content_disposition_header

from whatsapp.media import store
from whatsapp.media.ranges import Unsatisfiable, read_range
from whatsapp.media.sniffing import UNKNOWN, ending, is_inline
from whatsapp.services.uploads import StorageUnavailable

log = structlog.get_logger(__name__)
KEPT_SECONDS = 900
POLICY = "default-src 'none'; sandbox"


@dataclass(frozen=True, slots=True)
class Kept:
    """A file in the store. `is_ours`: uploaded, so its type is known; it is told, and never shown in place."""

    id: UUID
    storage_key: str
    size: int
    sha256: str
    media_type: str
    mime_type: str
    file_name: str
    is_ours: bool = False


def send_file(request: HttpRequest, file: Kept) -> HttpResponseBase:
    """200, 206 for one part, 304 for what the caller has, 416. Raises: NotFound, StorageUnavailable."""
    size, etag = file.size, f'"{file.sha256}"'
    headers = _headers(file, etag)
    if etag in {word.strip().removeprefix("W/") for word in request.headers.get("If-None-Match", "").split(",")}:
        return HttpResponse(status=304, headers=headers)
    wanted = None
    if request.headers.get("If-Range", etag) == etag:
        try:
            wanted = read_range(request.headers.get("Range", ""), size)
        except Unsatisfiable:
            return HttpResponse(status=416, headers=headers | {"Content-Range": f"bytes */{size}"})
    start, length = wanted or (0, size)
    headers["Content-Length"] = str(length)
    if wanted:
        headers["Content-Range"] = f"bytes {start}-{start + length - 1}/{size}"
    status = 206 if wanted else 200
    if request.method == "HEAD":
        return HttpResponse(status=status, headers=headers)
    try:
        chunks = store.read(file.storage_key, start=start, length=length)
    except store.FAILURES as error:
        log.exception("media_not_read", media_id=str(file.id))
        raise StorageUnavailable from error
    body: Any = _without_blocking(chunks) if isinstance(request, ASGIRequest) else chunks
    return StreamingHttpResponse(body, status=status, headers=headers)


def _headers(file: Kept, etag: str) -> dict[str, str]:
    mime_type = file.mime_type or UNKNOWN
    inline = is_inline(mime_type) and not file.is_ours
    return {
        "Content-Type": mime_type if inline or file.is_ours else UNKNOWN,
        "Content-Disposition": content_disposition_header(not inline, _name_of(file)) or "attachment",
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": POLICY,
        "Cross-Origin-Resource-Policy": "same-origin",
        "Cache-Control": f"private, max-age={KEPT_SECONDS}",
        "Vary": "Cookie, Authorization, X-API-Key",
        "Accept-Ranges": "bytes",
        "ETag": etag,
    }


def _name_of(file: Kept) -> str:
    """The sender's name for it without any path, else one of ours."""
    name = PurePath(file.file_name.replace("\\", "/")).name
    name = "".join(letter for letter in name if letter.isprintable()).strip(". ")
    return name or f"{file.media_type}-{file.id.hex[-8:]}{ending(file.mime_type)}"


async def _without_blocking(chunks: Iterator[bytes]) -> AsyncIterator[bytes]:
    """Read in a thread: under ASGI a plain iterator would be read to its end into memory first."""
    try:
        while chunk := await asyncio.to_thread(next, chunks, b""):
            yield chunk
    finally:
        close = getattr(chunks, "close", None)
        if close is not None:
            close()
