"""Files of messages over HTTP (spec/inbound.md sections 1 and 10). Each request is asked for its right."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar
from uuid import UUID

from django.http import HttpResponseBase
from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from pydantic import Field
from rest_framework.request import Request
from rest_framework.response import Response

from leadengine.accounts.api import Body, ScopedAPIView, answer, describe
from leadengine.accounts.api.schema import Refused, Shape
from leadengine.accounts.scopes import service_scope
from leadengine.links import check
from tickets.models import MessageMedia
from tickets.policy import load_viewer
from tickets.services.shapes import MEDIA_LINK
from whatsapp.api.serving import Kept, send_file
from whatsapp.services.media_access import find_linked, find_media, require_ready, retry_media


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
        return send_file(request._request, _kept(media))

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


def _kept(media: MessageMedia) -> Kept:
    return Kept(
        id=media.pk, storage_key=media.storage_key, size=int(media.size or 0), sha256=media.sha256,
        media_type=media.media_type, mime_type=media.mime_type, file_name=media.file_name,
    )  # fmt: skip
