"""How uploads end: withdrawn before use, or cleaned up when no message needs them (spec/outbound.md section 12).

First the row is EXPIRED, then messages show it, then the bytes go, then the row says so: whatever is cut off goes on at
the next run, and nothing lies forgotten.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import structlog
from django.conf import settings
from django.db import connection

from leadengine import metrics
from leadengine.accounts.models import User
from leadengine.accounts.scopes import service_scope, tenant_scope
from leadengine.accounts.services import write_audit, write_audits
from leadengine.errors import DomainError, NotFound
from tickets.models import MessageMedia
from whatsapp.media import store
from whatsapp.models import Upload
from whatsapp.services.media_rows import announce_media
from whatsapp.services.uploads import UploadExpired, facts_of, may_use

log = structlog.get_logger(__name__)

BATCH = 200
# How long the bytes of a row that was never READY may still be on their way.
ON_ITS_WAY = timedelta(hours=1)
REASON = "upload_expired"
_FIRST = UUID(int=0)

_EXPIRE = """
WITH idle AS (
    SELECT u.id, (  -- not EXISTS, for which all messages might be hashed
        SELECT true FROM tickets_messagemedia f JOIN tickets_message m ON m.id = f.message_id
        WHERE f.upload_id = u.id AND (m.status NOT IN ('FAILED', 'CANCELED') OR m.failed_at > %(before)s)
        LIMIT 1) AS needed
    FROM whatsapp_upload u
    WHERE u.state <> 'EXPIRED' AND coalesce(u.look_at, u.last_used_at, u.created_at) < %(before)s
    ORDER BY coalesce(u.look_at, u.last_used_at, u.created_at) LIMIT %(most)s FOR UPDATE OF u SKIP LOCKED
)
UPDATE whatsapp_upload SET updated_at = %(now)s,
    state = CASE WHEN id = ANY (ARRAY(SELECT id FROM idle WHERE needed)) THEN state ELSE 'EXPIRED' END,
    look_at = CASE WHEN id = ANY (ARRAY(SELECT id FROM idle WHERE needed))
        THEN %(before)s + (%(now)s - coalesce(last_used_at, created_at)) END
WHERE id = ANY (ARRAY(SELECT id FROM idle))
RETURNING id, state
"""
_LOCK_MESSAGES = """
SELECT m.id FROM tickets_message m JOIN tickets_messagemedia f ON f.message_id = m.id
WHERE f.upload_id = ANY(%s) AND f.tenant_id = %s AND f.state <> 'expired' ORDER BY m.id FOR UPDATE OF m
"""


class UploadInUse(DomainError):
    """Este arquivo já faz parte de uma mensagem: não pode ser apagado."""

    code = "UPLOAD_IN_USE"
    status = 409


def find_upload(*, viewer: User, tenant_id: UUID | None, upload_id: UUID) -> Upload:
    """An upload of the viewer's own, for supervisors any of the tenant, in the caller's scope. Raises: NotFound."""
    rows = Upload.objects.filter(pk=upload_id)
    if tenant_id is not None:
        rows = rows.for_tenant(tenant_id)
    upload: Upload | None = rows.first()
    if upload is None or not may_use(viewer, upload):
        raise NotFound("Arquivo não encontrado.")
    return upload


def find_linked(*, upload_id: UUID) -> Upload:
    """The upload that a checked link names. Service scope. Raises: NotFound, UploadExpired."""
    upload: Upload | None = Upload.objects.filter(pk=upload_id).first()
    if upload is None:
        raise NotFound("Arquivo não encontrado.")
    if upload.state == Upload.State.EXPIRED:
        raise UploadExpired
    return upload


def withdraw_upload(*, actor: User, upload: Upload) -> None:
    """End an upload that no message has used; its bytes are `remove_files`' business, after the commit.

    Raises: UploadInUse, UploadExpired.
    """
    ended = Upload.objects.filter(pk=upload.pk, state=Upload.State.READY).update(state=Upload.State.EXPIRED)
    upload.refresh_from_db(fields=["state"])
    if not ended:
        raise UploadInUse if upload.state == Upload.State.ATTACHED else UploadExpired
    write_audit(
        tenant_id=upload.tenant_id, actor=actor, action="upload.expired", target=upload, changes=facts_of(upload)
    )


def expire_uploads(*, now: datetime) -> int:
    """End uploads that hang on no living message, show that in the messages, and delete their bytes; how many ended."""
    before = now - timedelta(hours=settings.UPLOAD_UNUSED_TTL_HOURS)
    ended = 0
    while looked := _expire(before, now):
        ended += sum(state == Upload.State.EXPIRED for state in looked.values())
    for batch in _to_remove(now):
        remove_files(batch, now=now)
    if ended:
        log.info("uploads_expired", count=ended)
    return ended


def remove_files(uploads: Sequence[Upload], *, now: datetime) -> None:
    """Delete the bytes of EXPIRED uploads, once messages show it. No scope may be open. A store that is away is tried
    again by the next clean-up."""
    for tenant_id in {upload.tenant_id for upload in uploads}:
        mine = [upload for upload in uploads if upload.tenant_id == tenant_id]
        _show_expired(tenant_id, [upload.pk for upload in mine], now)
        gone = [upload.pk for upload in mine if _remove(upload)]
        with tenant_scope(tenant_id):
            Upload.objects.for_tenant(tenant_id).filter(pk__in=gone).update(file_removed_at=now)


# --- Steps, in the order they are called --------------------------------------------------------------------------


def _expire(before: datetime, now: datetime) -> dict[UUID, str]:
    """A batch of uploads that nobody has looked at for long, and what has become of them.

    What is needed is looked at again when it is twice as old: so a run goes over a few of those that were ever sent.
    """
    values: dict[str, Any] = {"before": before, "most": BATCH, "now": now}
    with service_scope("clean up uploads of all tenants"):
        with connection.cursor() as cursor:
            cursor.execute(_EXPIRE, values)
            looked = dict(cursor.fetchall())
        ids = [pk for pk, state in looked.items() if state == Upload.State.EXPIRED]
        write_audits(
            actor=None, action="upload.expired", targets=list(Upload.objects.filter(pk__in=ids)), changes=facts_of
        )
        metrics.count(metrics.uploads_expired, len(ids))
    return looked


def _to_remove(now: datetime) -> Iterator[list[Upload]]:
    """Expired uploads whose bytes may still lie there, in batches; each once, whatever became of the last batch."""
    after = _FIRST
    while True:
        with service_scope("files of uploads that have expired"):
            rows = Upload.objects.filter(state=Upload.State.EXPIRED, file_removed_at=None, pk__gt=after)
            batch = list(rows.filter(created_at__lt=now - ON_ITS_WAY).order_by("pk")[:BATCH])
        if not batch:
            return
        yield batch
        after = batch[-1].pk


def _show_expired(tenant_id: UUID, ids: Sequence[UUID], now: datetime) -> None:
    """The messages of these uploads say that their file is gone. A message is locked before its file, everywhere."""
    with tenant_scope(tenant_id), connection.cursor() as cursor:
        cursor.execute(_LOCK_MESSAGES, [list(ids), tenant_id])
        messages = [row[0] for row in cursor.fetchall()]
        if not messages:
            return
        MessageMedia.objects.for_tenant(tenant_id).filter(message_id__in=messages).update(
            state=MessageMedia.State.EXPIRED, reason=REASON
        )
        announce_media(messages, now)


def _remove(upload: Upload) -> bool:
    try:
        store.remove(upload.storage_key)
    except store.FAILURES:
        log.exception("upload_not_removed", upload_id=str(upload.pk))
        return False
    return True
