"""Files of messages over HTTP (spec/inbound.md sections 1 and 10).

The bytes always pass through us, from a bucket too: so each request is asked for its right, `nosniff` and the sandbox
stand on every answer, the page's content policy needs no foreign origin, and the store no way to the browser.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import PurePath
from typing import Any, ClassVar
from uuid import UUID

import structlog
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest, HttpResponse, HttpResponseBase, StreamingHttpResponse
from django.utils import timezone
from django.utils.http import content_disposition_header
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from pydantic import Field
from rest_framework.request import Request
from rest_framework.response import Response

from leadengine.accounts.api import Body, ScopedAPIView, answer, describe
from leadengine.accounts.api.schema import Refused, Shape
from leadengine.accounts.scopes import service_scope
from leadengine.errors import DomainError
from leadengine.links import check
from tickets.models import MessageMedia
from tickets.policy import load_viewer
from tickets.services.shapes import MEDIA_LINK
from whatsapp.media import store
from whatsapp.media.ranges import Unsatisfiable, read_range
from whatsapp.media.sniffing import UNKNOWN, ending, is_inline
from whatsapp.services.media_access import find_linked, find_media, require_ready, retry_media

log = structlog.get_logger(__name__)
KEPT_SECONDS = 900
POLICY = "default-src 'none'; sandbox"


class StorageAway(DomainError):
    """O armazenamento de arquivos não responde: tente de novo em instantes."""

    code = "STORAGE_UNAVAILABLE"
    status = 503


class LinkQuery(Body):
    exp: str | None = Field(None, max_length=12)
    sig: str | None = Field(None, max_length=64)


class MediaStateShape(Shape):
    id: UUID
    state: str
    reason: str


class MediaView(ScopedAPIView):
    """`permissions` of a link's caller are the link's: it opens this one file and nothing else."""

    permissions: ClassVar = {"GET": "tickets:read"}

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        self.link = self.read_query(LinkQuery)
        if self.link.sig is None:
            super().initial(request, *args, **kwargs)

    def scope(self) -> AbstractContextManager[None]:
        """None for the handler: the row is read in one, the file outside it."""
        return nullcontext()

    @extend_schema(
        parameters=[OpenApiParameter(name, str) for name in LinkQuery.model_fields],
        responses={(200, "application/octet-stream"): OpenApiTypes.BINARY, "default": Refused},
    )
    def get(self, request: Request, media_id: UUID) -> HttpResponseBase:
        """The file: whole, or the part of a `Range`. `exp` and `sig` of a signed link stand for the caller."""
        media = self._find(media_id)
        require_ready(media)
        return send_file(request._request, media)

    def _find(self, media_id: UUID) -> MessageMedia:
        if self.link.sig is None:
            with super().scope():
                return find_media(viewer=load_viewer(self.user), media_id=media_id)
        check(MEDIA_LINK, media_id, until=self.link.exp or "", signature=self.link.sig, now=timezone.now())
        with service_scope("a signed link names a file"):
            return find_linked(media_id=media_id)


class MediaRetryView(ScopedAPIView):
    permissions: ClassVar = {"POST": "tickets:read"}

    @describe(MediaStateShape, code=202)
    def post(self, request: Request, media_id: UUID) -> Response:
        """Fetch a failed or expired file again, now."""
        media = retry_media(viewer=load_viewer(self.user), media_id=media_id, now=timezone.now())
        return answer({"id": str(media.pk), "state": media.state, "reason": media.reason}, code=202)


def send_file(request: HttpRequest, media: MessageMedia) -> HttpResponseBase:
    """200, 206 for one part, 304 for what the caller has, 416. Raises: NotFound, StorageAway."""
    size, etag = int(media.size or 0), f'"{media.sha256}"'
    headers = _headers(media, etag)
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
        chunks = store.read(media.storage_key, start=start, length=length)
    except store.FAILURES as error:
        log.exception("media_not_read", media_id=str(media.pk))
        raise StorageAway from error
    body: Any = _without_blocking(chunks) if isinstance(request, ASGIRequest) else chunks
    return StreamingHttpResponse(body, status=status, headers=headers)


def _headers(media: MessageMedia, etag: str) -> dict[str, str]:
    mime_type = media.mime_type or UNKNOWN
    inline = is_inline(mime_type)
    return {
        "Content-Type": mime_type if inline else UNKNOWN,
        "Content-Disposition": content_disposition_header(not inline, _name_of(media)) or "attachment",
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": POLICY,
        "Cross-Origin-Resource-Policy": "same-origin",
        "Cache-Control": f"private, max-age={KEPT_SECONDS}",
        "Vary": "Cookie, Authorization, X-API-Key",
        "Accept-Ranges": "bytes",
        "ETag": etag,
    }


def _name_of(media: MessageMedia) -> str:
    """The sender's name for it without any path, else one of ours."""
    name = PurePath(media.file_name.replace("\\", "/")).name
    name = "".join(letter for letter in name if letter.isprintable()).strip(". ")
    return name or f"{media.media_type}-{media.pk.hex[-8:]}{ending(media.mime_type)}"


async def _without_blocking(chunks: Iterator[bytes]) -> AsyncIterator[bytes]:
    """Read in a thread: under ASGI a plain iterator would be read to its end into memory first."""
    try:
        while chunk := await asyncio.to_thread(next, chunks, b""):
            yield chunk
    finally:
        close = getattr(chunks, "close", None)
        if close is not None:
            close()
