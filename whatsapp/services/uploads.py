"""Files that people upload: examined, kept, and taken by the messages that send them (spec/outbound.md section 12).

Whoever calls `store_upload` holds no scope: examining and storing a file takes time that no transaction waits for.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import PurePosixPath
from typing import IO, Any, NoReturn
from uuid import UUID

import structlog
from django.conf import settings
from django.db import connection

from leadengine import links, metrics
from leadengine.accounts.models import User
from leadengine.accounts.scopes import tenant_scope
from leadengine.accounts.services import write_audit
from leadengine.errors import DomainError, NotFound, ValidationFailed
from leadengine.ids import uuid7
from tickets.services.outbox.refusals import MediaTooLarge
from tickets.transports import KeptFile, Line
from whatsapp.media import store
from whatsapp.media.recognising import Recognised, recognise
from whatsapp.media.scanning import FileInfected, refuse_test_file, scan_by_clamd, scan_for_test_file
from whatsapp.models import Upload
from whatsapp.services.lines import capabilities_of, find_line

log = structlog.get_logger(__name__)

MEDIA_TYPES = ("image", "video", "audio", "document")
LINK = "upload"  # the purpose of its signed links
_NAME_LENGTH = 120
_UNKNOWN = "unknown"


class FileEmpty(DomainError):
    """O arquivo está vazio."""

    code = "FILE_EMPTY"
    status = 400


class FileTooLarge(DomainError):
    """O arquivo é maior do que o limite do seu tipo. Envie um menor."""

    code = "FILE_TOO_LARGE"
    status = 413


class MediaTypeMismatch(DomainError):
    """O arquivo não é do tipo informado."""

    code = "MEDIA_TYPE_MISMATCH"
    status = 415


class StorageUnavailable(DomainError):
    """O armazenamento de arquivos não responde: tente de novo em instantes."""

    code = "STORAGE_UNAVAILABLE"
    status = 503


class UploadExpired(DomainError):
    """O arquivo não está mais guardado: anexe-o de novo."""

    code = "UPLOAD_EXPIRED"
    status = 410


@dataclass(frozen=True, slots=True)
class SignedLink:
    """An address that opens a file until `expires_at`."""

    url: str
    expires_at: datetime


def store_upload(
    *,
    tenant_id: UUID,
    actor: User | None,
    file: IO[bytes],
    file_name: str,
    declared_type: str | None = None,
    caption: str = "",
    ticket_id: UUID | None = None,
    contact_id: UUID | None = None,
    session_id: UUID | None = None,
    now: datetime,
) -> Upload:
    """Examine a file and keep it; the row that is READY for a message. Holds no scope and opens short ones itself.

    `file` is seekable, at any place, and stays open. `declared_type` is image, video, audio, document, or None: what
    the content says. `session_id` is the line whose limits hold, too. What is refused leaves no bytes, and an entry in
    the audit log. Raises: FileEmpty (400), FileTooLarge (413), UnsupportedFile, MediaTypeMismatch (415), FileInfected
    (422), ScannerUnavailable, StorageUnavailable (503).
    """
    if declared_type is not None and declared_type not in MEDIA_TYPES:
        raise ValidationFailed([{"field": "type", "message": f"Deve ser um de: {', '.join(MEDIA_TYPES)}."}])
    name = clean_name(file_name)
    upload = Upload(
        id=uuid7(), tenant_id=tenant_id, actor_id=actor.pk if actor else None, media_type=declared_type or _UNKNOWN,
        size=file.seek(0, 2), sha256=_digest(file), caption=caption, ticket_id=ticket_id, contact_id=contact_id,
    )  # fmt: skip
    try:
        ending = _examine(upload, file, name, declared_type, _limits(tenant_id, session_id))
    except DomainError as refusal:
        note_refusal(upload=upload, actor=actor, refusal=refusal)
        raise
    upload.file_name = name or f"{upload.media_type}-{upload.pk.hex[-8:]}{ending}"
    upload.storage_key = store.upload_key(tenant_id=tenant_id, upload_id=upload.pk, at=now, ending=ending)
    _keep(upload, actor, file)
    return upload


def refuse_large(*, tenant_id: UUID, actor: User | None, size: int, declared_type: str | None) -> NoReturn:
    """Refuse a file whose size alone is enough, before it is received. Raises: FileTooLarge."""
    word = declared_type if declared_type in MEDIA_TYPES else "document"
    refusal = FileTooLarge(maxBytes=settings.UPLOAD_MAX_BYTES[word], size=size, mediaType=word)
    upload = Upload(id=uuid7(), tenant_id=tenant_id, media_type=declared_type or _UNKNOWN, size=size)
    note_refusal(upload=upload, actor=actor, refusal=refusal)
    raise refusal


def note_refusal(*, upload: Upload, actor: User | None, refusal: DomainError) -> None:
    """Count a file that is not kept and write it to the audit log; `upload` is a row that never will be."""
    infected, failed = isinstance(refusal, FileInfected), refusal.status >= 500
    result = "infected" if infected else "failed" if failed else "rejected"
    facts = {**facts_of(upload), "code": refusal.code}
    facts |= {key: refusal.details[key] for key in ("reason", "threat") if key in refusal.details}
    with tenant_scope(upload.tenant_id):
        action = "upload.infected" if infected else "upload.rejected"
        write_audit(tenant_id=upload.tenant_id, actor=actor, action=action, target=upload, changes=facts)
        metrics.count(metrics.uploads.labels(media_type=upload.media_type, result=result))
    log.info("upload_refused", upload_id=str(upload.pk), code=refusal.code, size=upload.size)


def take_upload(*, tenant_id: UUID, upload_id: UUID, author: User | None, line: Line, now: datetime) -> KeptFile:
    """A file for a message that is being accepted, in the caller's transaction: it is kept as long as that lives.

    `author` None is the system. Raises: NotFound, also for a file that is not the author's to use; UploadExpired;
    MediaTooLarge when it is more than the line takes.
    """
    upload = _lock(tenant_id, upload_id)
    if author is not None and not may_use(author, upload):
        raise NotFound("Arquivo não encontrado.")
    most = line.capabilities.media_max_bytes.get(upload.media_type)
    if most is not None and upload.size > most:
        raise MediaTooLarge(maxBytes=most, size=upload.size, mediaType=upload.media_type)
    if upload.state == Upload.State.READY:
        write_audit(
            tenant_id=tenant_id, actor=author, action="upload.attached", target=upload, changes=facts_of(upload)
        )
    _use(upload, now)
    return KeptFile(
        id=upload.pk, media_type=upload.media_type, mime_type=upload.mime_type, file_name=upload.file_name,
        size=upload.size, sha256=upload.sha256, storage_key=upload.storage_key, source=_source(upload),
    )  # fmt: skip


def may_use(person: User, upload: Upload) -> bool:
    """Whether an upload of their tenant is a person's to see and to send."""
    return person.is_staff or upload.actor_id == person.pk


def require_upload(*, tenant_id: UUID, source: Mapping[str, Any], now: datetime) -> None:
    """Before a message is sent again, in the caller's transaction. Raises: UploadExpired. An address is no upload."""
    if "uploadId" not in source:
        return
    try:
        _use(_lock(tenant_id, UUID(source["uploadId"])), now)
    except NotFound as error:
        raise UploadExpired from error


def sign_link(upload: Upload, *, now: datetime) -> SignedLink:
    """A fresh link to the bytes: the store's own where it is a bucket, else ours."""
    until = now + timedelta(seconds=settings.WHATSAPP_MEDIA_SIGNED_URL_TTL_SECONDS)
    return SignedLink(sign_source(_source(upload), now=now), until)


def sign_source(source: Mapping[str, Any], *, now: datetime) -> str:
    """A fresh link to the file of a message: `source` as KeptFile has it, or the address that a caller gave."""
    if "uploadId" not in source:
        return str(source["url"])
    theirs = store.presigned(
        source["storageKey"], seconds=settings.WHATSAPP_MEDIA_SIGNED_URL_TTL_SECONDS, name=source["fileName"],
        mime_type=source["mimeType"],
    )  # fmt: skip
    upload_id = UUID(source["uploadId"])
    ours = f"{settings.PUBLIC_BASE_URL}/api/whatsapp/uploads/{upload_id}/content"
    return theirs or f"{ours}?{links.sign(LINK, upload_id, now=now)}"


def clean_name(name: str) -> str:
    """The base name in NFC without control characters, at most 120 characters with its ending; may be empty."""
    base = unicodedata.normalize("NFC", name.replace("\\", "/").rpartition("/")[2])
    base = "".join(letter for letter in base if unicodedata.category(letter)[0] != "C").strip(" .")
    ending = PurePosixPath(base).suffix[:20]
    return base if len(base) <= _NAME_LENGTH else base[: _NAME_LENGTH - len(ending)] + ending


def most_bytes() -> int:
    """What no file of any type may pass."""
    return max(settings.UPLOAD_MAX_BYTES.values())


# --- Steps, in the order they are called --------------------------------------------------------------------------


def _digest(file: IO[bytes]) -> str:
    file.seek(0)
    total = hashlib.sha256()
    while chunk := file.read(store.CHUNK):
        total.update(chunk)
    return total.hexdigest()


def _limits(tenant_id: UUID, session_id: UUID | None) -> dict[str, int]:
    """Bytes by type: the smaller of the settings' and the line's."""
    with tenant_scope(tenant_id):
        line = find_line(session_id) if session_id else None
    theirs = (line.capabilities if line else capabilities_of(None)).media_max_bytes
    return {word: min(most, theirs.get(word, most)) for word, most in settings.UPLOAD_MAX_BYTES.items()}


def _examine(upload: Upload, file: IO[bytes], name: str, declared: str | None, limits: Mapping[str, int]) -> str:
    """Fill in what the file is; its ending. Raises: whatever refuses it."""
    if not upload.size:
        raise FileEmpty
    if upload.size > max(limits.values()):
        _refuse_large(upload.size, declared or "document", limits)
    scan_for_test_file(file)
    found: Recognised = recognise(file, size=upload.size, name=name, examine=refuse_test_file)
    upload.mime_type, upload.media_type = found.mime_type, declared or found.media_type
    if declared not in {None, "document", found.media_type}:
        raise MediaTypeMismatch(declared=declared, detected=found.media_type, mimeType=found.mime_type)
    _refuse_large(upload.size, upload.media_type, limits)
    scan_by_clamd(file)
    return found.ending


def _refuse_large(size: int, media_type: str, limits: Mapping[str, int]) -> None:
    if size > limits[media_type]:
        raise FileTooLarge(maxBytes=limits[media_type], size=size, mediaType=media_type)


def _keep(upload: Upload, actor: User | None, file: IO[bytes]) -> None:
    with tenant_scope(upload.tenant_id):
        upload.save(force_insert=True)  # as EXPIRED: the clean-up finds what is cut off from here on
    try:
        file.seek(0)
        store.put(upload.storage_key, file)
    except store.FAILURES as error:
        log.exception("upload_not_stored", upload_id=str(upload.pk))
        with suppress(*store.FAILURES):  # else the clean-up does it
            store.remove(upload.storage_key)
        refusal = StorageUnavailable()
        note_refusal(upload=upload, actor=actor, refusal=refusal)
        raise refusal from error
    upload.state = Upload.State.READY
    with tenant_scope(upload.tenant_id):
        upload.save(update_fields=["state"])
        write_audit(
            tenant_id=upload.tenant_id, actor=actor, action="upload.created", target=upload, changes=facts_of(upload)
        )
        metrics.count(metrics.uploads.labels(media_type=upload.media_type, result="accepted"))
        metrics.count(metrics.upload_bytes, upload.size)


def facts_of(upload: Upload) -> dict[str, Any]:
    """What the audit log says of a file; never its name."""
    return {"size": upload.size, "mime": upload.mime_type, "sha256": upload.sha256}


def _lock(tenant_id: UUID, upload_id: UUID) -> Upload:
    upload: Upload | None = Upload.objects.for_tenant(tenant_id).select_for_update().filter(pk=upload_id).first()
    if upload is None:
        raise NotFound("Arquivo não encontrado.")
    if upload.state == Upload.State.EXPIRED:
        raise UploadExpired
    return upload


def _use(upload: Upload, now: datetime) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            """UPDATE whatsapp_upload SET state = 'ATTACHED', last_used_at = %s, look_at = NULL, updated_at = %s
               WHERE id = %s""",
            [now, now, upload.pk],
        )


def _source(upload: Upload) -> dict[str, Any]:
    return {
        "uploadId": str(upload.pk),
        "storageKey": upload.storage_key,
        "fileName": upload.file_name,
        "mimeType": upload.mime_type,
    }
