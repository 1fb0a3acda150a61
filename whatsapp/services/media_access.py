"""Who may have the file of a message, and asking for it once more."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from django.db.models import QuerySet

from leadengine.errors import DomainError, NotFound
from tickets.models import MessageMedia
from tickets.policy import Viewer, visible_tickets
from whatsapp.services.media import wake_media
from whatsapp.services.media_rows import reset_media
from whatsapp.services.uploads import UploadExpired


class MediaNotReady(DomainError):
    """O arquivo ainda não está disponível: veja o estado e tente de novo."""

    code = "MEDIA_NOT_READY"
    status = 409


class MediaExpired(DomainError):
    """O WhatsApp não guarda mais este arquivo: peça ao contato que envie de novo."""

    code = "MEDIA_EXPIRED"
    status = 410


class UnableToRetry(DomainError):
    """O arquivo já está disponível: não há o que tentar de novo."""

    code = "MEDIA_READY"
    status = 409


def find_media(*, viewer: Viewer, media_id: UUID) -> MessageMedia:
    """The file of a message whose ticket the viewer sees; a deleted message shows it to supervisors only.

    Raises: NotFound.
    """
    files = _files().filter(pk=media_id, message__ticket__in=visible_tickets(viewer))
    media: MessageMedia | None = files.first()
    if media is None or (media.message.revoked_at and not viewer.is_supervisor):
        raise NotFound("Arquivo não encontrado.")
    return media


def find_linked(*, media_id: UUID) -> MessageMedia:
    """The file that a checked link names, while its message is not deleted. Service scope. Raises: NotFound."""
    media = _files().filter(pk=media_id, message__revoked_at__isnull=True).first()
    if media is None:
        raise NotFound("Arquivo não encontrado.")
    return media


def require_ready(media: MessageMedia) -> None:
    """Raises: MediaExpired, UploadExpired, MediaNotReady (with the state and its reason), NotFound."""
    if media.state == MessageMedia.State.EXPIRED:
        if media.upload_id:
            raise UploadExpired
        raise MediaExpired(state=media.state, reason=media.reason)
    if media.state != MessageMedia.State.READY:
        raise MediaNotReady(state=media.state, reason=media.reason)
    if not media.storage_key:  # what was sent by its address lies there, not here
        raise NotFound("O arquivo não está guardado aqui.")


def retry_media(*, viewer: Viewer, media_id: UUID, now: datetime) -> MessageMedia:
    """Fetch a failed or expired file again at once; one that waits or is on its way goes on as it is.

    Raises: NotFound, UnableToRetry, UploadExpired for a file of ours, which lies nowhere else.
    """
    media = find_media(viewer=viewer, media_id=media_id)
    if media.upload_id and media.state == MessageMedia.State.EXPIRED:
        raise UploadExpired
    if media.state == MessageMedia.State.READY:
        raise UnableToRetry
    reset_media(media=media, now=now)
    media.refresh_from_db(fields=["state", "reason", "attempts", "next_attempt_at"])
    wake_media()
    return media


def _files() -> QuerySet[MessageMedia]:
    files: QuerySet[MessageMedia] = MessageMedia.objects.select_related("message").only(
        "state", "reason", "media_type", "mime_type", "file_name", "size", "sha256", "storage_key", "tenant_id",
        "upload_id", "message__revoked_at", "message__ticket_id",
    )  # fmt: skip
    return files
