"""Uploads over HTTP: POST /api/whatsapp/uploads and what follows from it (spec/outbound.md section 12)."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, ClassVar, Literal
from uuid import UUID

from django.core.exceptions import SuspiciousOperation
from django.core.files.uploadedfile import UploadedFile
from django.http import HttpRequest, HttpResponseBase
from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from pydantic import Field, ValidationError, field_validator
from rest_framework import exceptions
from rest_framework.parsers import MultiPartParser
from rest_framework.request import Request
from rest_framework.response import Response

from leadengine.accounts.api import Body, ScopedAPIView, describe
from leadengine.accounts.api.schema import Refused, Shape
from leadengine.accounts.scopes import service_scope
from leadengine.bodies import cut_of
from leadengine.errors import DomainError, NotFound
from leadengine.limiting import count_in_minute
from leadengine.links import LinkInvalid, check
from leadengine.validation import refusal
from leads.models import Contact
from tickets.policy import load_viewer, visible_tickets
from tickets.services.outbox.refusals import RateLimited
from tickets.services.shapes import iso
from whatsapp.api.serving import Kept, send_file
from whatsapp.media.receiving import FIELD, OneFile
from whatsapp.models import Upload
from whatsapp.services.uploads import LINK, most_bytes, refuse_large, sign_link, store_upload
from whatsapp.services.uploads_life import find_linked, find_upload, remove_files, withdraw_upload

UPLOADS = "/api/whatsapp/uploads"
PER_MINUTE = 60  # of one person
_FORM_BYTES = 65_536  # what a form needs beside its file
_CSRF_FIELD = "csrfmiddlewaretoken"


class FileRequired(DomainError):
    """Envie o arquivo no campo `file` de um formulário multipart."""

    code = "FILE_REQUIRED"
    status = 400


class FileUploadError(DomainError):
    """O envio do arquivo chegou incompleto ou danificado: tente de novo."""

    code = "FILE_UPLOAD_ERROR"
    status = 400


class UploadForm(Body):
    """The fields beside the file."""

    type: Literal["image", "video", "document", "audio"] | None = None
    caption: str = Field("", max_length=1024)
    ticket_id: UUID | None = None
    contact_id: UUID | None = None
    file_name: str | None = Field(None, max_length=255)

    @field_validator("type", mode="before")
    @classmethod
    def _any_case(cls, value: Any) -> Any:
        return value.lower() if isinstance(value, str) else value


class UploadShape(Shape):
    """An upload with a fresh link. `expires_at` is the link's; links are null once the file is gone."""

    upload_id: UUID
    state: str
    resource_url: str | None
    media_url: str | None
    expires_at: str | None
    expires_in_seconds: int | None
    media_type: str
    mime_type: str
    media_mime_type: str
    size: int
    media_size: int
    file_name: str
    media_file_name: str
    caption: str
    ticket_id: UUID | None
    contact_id: UUID | None
    sha256: str
    scan_status: str


class UploadAnswer(UploadShape):
    """The same fields at the top level and in `data`."""

    data: UploadShape


_FORM = {
    "type": "object",
    "required": [FIELD],
    "properties": {
        FIELD: {"type": "string", "format": "binary"},
        "type": {"type": "string", "enum": ["image", "video", "document", "audio"]},
        "caption": {"type": "string", "maxLength": 1024},
        "fileName": {"type": "string", "maxLength": 255},
        "ticketId": {"type": "string", "format": "uuid"},
        "contactId": {"type": "string", "format": "uuid"},
    },
}


class _OwnUploads(ScopedAPIView):
    permissions: ClassVar = {"GET": "uploads:write", "POST": "uploads:write", "DELETE": "uploads:write"}
    scoped = False  # a file is not examined, stored or deleted within a transaction


class UploadsView(_OwnUploads):
    parser_classes = [MultiPartParser]

    def initialize_request(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Request:
        """The form is read when it is first asked for, which for a browser's session is the check of its token."""
        request.upload_handlers = [OneFile(most_bytes())]
        return super().initialize_request(request, *args, **kwargs)

    def handle_exception(self, exc: Exception) -> Response:
        if isinstance(exc, exceptions.ParseError | SuspiciousOperation):
            exc = FileUploadError()
        return super().handle_exception(exc)

    @extend_schema(
        request={"multipart/form-data": _FORM},
        responses={201: UploadAnswer, "default": Refused},
    )
    def post(self, request: Request) -> Response:
        """Keep a file, so that a message can send it."""
        self._count()
        tenant_id = self.tenant_of_caller()
        if (size := self._declared()) is not None:
            refuse_large(tenant_id=tenant_id, actor=self.user, size=size, declared_type=None)
        form = self._read_form(request)
        received = request.FILES.get(FIELD)
        if not isinstance(received, UploadedFile) or received.file is None:
            raise FileRequired
        with self.scope():
            session_id = self._check_targets(form)
        if received.size is not None and received.size > most_bytes():
            refuse_large(tenant_id=tenant_id, actor=self.user, size=received.size, declared_type=form.type)
        now = timezone.now()
        upload = store_upload(
            tenant_id=tenant_id, actor=self.user, file=received.file, file_name=form.file_name or received.name or "",
            declared_type=form.type, caption=form.caption, ticket_id=form.ticket_id, contact_id=form.contact_id,
            session_id=session_id, now=now,
        )  # fmt: skip
        return answer_twice(upload, code=201)

    def tenant_of_caller(self) -> UUID:
        """Raises: NotFound for a superuser of the platform without a tenant: nobody's file is kept."""
        if self.tenant_id is None:
            raise NotFound
        return self.tenant_id

    def _count(self) -> None:
        wait = count_in_minute("upload", str(self.user.pk), most=PER_MINUTE)
        if wait:
            now = timezone.now()
            raise RateLimited(limit=PER_MINUTE, resets_at=now + timedelta(seconds=wait), now=now)

    def _declared(self) -> int | None:
        """The size of a body that is not worth reading; None for others."""
        if (cut := cut_of(self.request._request)) is not None:
            return cut
        declared = self.request.META.get("CONTENT_LENGTH") or ""
        return int(declared) if declared.isdigit() and int(declared) > most_body_bytes() else None

    def _read_form(self, request: Request) -> UploadForm:
        fields = {name: value for name, value in request.POST.items() if name != _CSRF_FIELD and value != ""}
        try:
            return UploadForm.model_validate(fields)
        except ValidationError as error:
            raise refusal(error) from error

    def _check_targets(self, form: UploadForm) -> UUID | None:
        """The line of the ticket, whose limits hold. Raises: NotFound for what the caller does not see."""
        if form.contact_id and not self.of_tenant(Contact.objects.all()).filter(pk=form.contact_id).exists():
            raise NotFound("Contato não encontrado.")
        if form.ticket_id is None:
            return None
        visible = visible_tickets(load_viewer(self.user)).only("session_id", "tenant_id")
        ticket = visible.filter(pk=form.ticket_id).first()
        if ticket is None or ticket.tenant_id != self.tenant_id:
            raise NotFound("Atendimento não encontrado.")
        session_id: UUID | None = ticket.session_id
        return session_id


class UploadView(_OwnUploads):
    @extend_schema(responses={200: UploadAnswer, "default": Refused})
    def get(self, request: Request, upload_id: UUID) -> Response:
        """An upload of the caller's, any of the tenant's for supervisors, with a fresh link."""
        with self.scope():
            upload = find_upload(viewer=self.user, tenant_id=self.tenant_id, upload_id=upload_id)
        return answer_twice(upload)

    @describe(code=204)
    def delete(self, request: Request, upload_id: UUID) -> Response:
        """Remove a file that no message has used."""
        with self.scope():
            upload = find_upload(viewer=self.user, tenant_id=self.tenant_id, upload_id=upload_id)
            withdraw_upload(actor=self.user, upload=upload)
        remove_files([upload], now=timezone.now())
        return Response(status=204)


class UploadContentView(ScopedAPIView):
    """The link is the caller's right: it opens this one file and nothing else."""

    authentication_classes = []
    permission_classes = []
    scoped = False

    @extend_schema(
        parameters=[OpenApiParameter(name, str, required=True) for name in ("exp", "sig")],
        responses={(200, "application/octet-stream"): OpenApiTypes.BINARY, "default": Refused},
    )
    def get(self, request: Request, upload_id: UUID) -> HttpResponseBase:
        """The bytes: whole, or the part of a `Range`."""
        until, signature = request.GET.get("exp", ""), request.GET.get("sig", "")
        check(LINK, upload_id, until=until, signature=signature, now=timezone.now(), wrong=LinkInvalid)
        with service_scope("a signed link names an upload"):
            upload = find_linked(upload_id=upload_id)
        return send_file(request._request, _kept(upload))


def most_body_bytes() -> int:
    """What no body of an upload may pass, its form included."""
    return most_bytes() + _FORM_BYTES


def answer_twice(upload: Upload, *, code: int = 200) -> Response:
    """The answer, at the top level and in `data`."""
    fields = upload_json(upload)
    return Response({**fields, "data": fields}, status=code)


def upload_json(upload: Upload) -> dict[str, Any]:
    """`UploadShape` of an upload, with a link signed now."""
    now = timezone.now()
    link = None if upload.state == Upload.State.EXPIRED else sign_link(upload, now=now)
    url = link.url if link else None
    return {
        "uploadId": str(upload.pk),
        "state": upload.state,
        "resourceUrl": url,
        "mediaUrl": url,
        "expiresAt": iso(link.expires_at) if link else None,
        "expiresInSeconds": round((link.expires_at - now).total_seconds()) if link else None,
        "mediaType": upload.media_type,
        "mimeType": upload.mime_type,
        "mediaMimeType": upload.mime_type,
        "size": upload.size,
        "mediaSize": upload.size,
        "fileName": upload.file_name,
        "mediaFileName": upload.file_name,
        "caption": upload.caption,
        "ticketId": str(upload.ticket_id) if upload.ticket_id else None,
        "contactId": str(upload.contact_id) if upload.contact_id else None,
        "sha256": upload.sha256,
        "scanStatus": upload.scan_status,
    }


def _kept(upload: Upload) -> Kept:
    return Kept(
        id=upload.pk, storage_key=upload.storage_key, size=upload.size, sha256=upload.sha256,
        media_type=upload.media_type, mime_type=upload.mime_type, file_name=upload.file_name, is_ours=True,
    )  # fmt: skip
