"""The dead-letter desk: which events need a person, and what a person may do with them besides running them again."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import connection
from django.db.models import Q, QuerySet

from leadengine.accounts.models import User
from leadengine.accounts.services import write_audits
from leadengine.errors import DomainError, NotFound
from whatsapp.models import WebhookEvent, WebhookItem
from whatsapp.services.intake import Entry, parse_body, split_entries
from whatsapp.services.reprocessing import MOST, give_addresses

OVERDUE = timedelta(minutes=10)  # the drain looks every second: what is due this long has been forgotten
UNREAD = ("invalid_contract", "no_sender", "poll_choice_invalid")  # items that broke the contract
_WAITING = ["pending", "parked"]
_LISTED = 10_000
_TROUBLE = ("FAILED", "ORPHAN", "REJECTED")


class UnableToCorrect(DomainError):
    """O JSON corrigido não serve."""

    code = "UNABLE_TO_CORRECT"
    status = 409


def dead_letters(rows: QuerySet[Any], *, now: datetime) -> QuerySet[Any]:
    """Of `rows` (events) those that need a person: failed, orphan, rejected, or holding an item long overdue.

    Each part has an index of its own and stops after 10,000.
    """
    trouble = WebhookEvent.objects.order_by().filter(status__in=_TROUBLE).values("pk")[:_LISTED]
    return rows.filter(Q(pk__in=trouble.union(_overdue(now), all=True)))


def overdue_letters(rows: QuerySet[Any], *, now: datetime) -> QuerySet[Any]:
    """Of `rows` those that hold a waiting item nobody looks at any more."""
    return rows.filter(pk__in=_overdue(now))


def unread_letters(rows: QuerySet[Any], *, tenant_id: UUID | None) -> QuerySet[Any]:
    """Of `rows` those with an item that broke the contract, the newest first 10,000; for them nothing was lost."""
    items = WebhookItem.objects.order_by("-pk").filter(fate="ignored", reason__in=UNREAD)
    if tenant_id is not None:
        items = items.filter(tenant_id=tenant_id)
    return rows.filter(pk__in=items.values("event_id")[:_LISTED])


def discard_events(*, ids: Collection[UUID], reason: str, actor: User, now: datetime) -> int:
    """End events of the desk, with a reason, unprocessed: what they still owed becomes `discarded`. Returns how many.

    Bodies stay as long as those of any other event.
    """
    chosen = list(ids)[:MOST]
    with connection.cursor() as cursor:
        cursor.execute(
            """WITH ended AS (
                   UPDATE whatsapp_webhookitem SET fate = 'discarded', due_at = NULL
                   WHERE event_id = ANY(%(ids)s) AND (fate = 'failed'
                       OR fate IN ('pending', 'parked') AND (due_at < %(late)s OR expires_at < %(late)s)
                       OR fate = 'ignored' AND reason = ANY(%(unread)s))
                   RETURNING event_id)
               UPDATE whatsapp_webhookevent SET status = 'PROCESSED', note = %(note)s,
                   processed_at = coalesce(processed_at, %(now)s)
               WHERE id = ANY(%(ids)s) AND (status = ANY(%(trouble)s)
                   OR status = 'PROCESSED' AND id IN (SELECT event_id FROM ended))
               RETURNING id""",
            {
                "ids": chosen, "late": now - OVERDUE, "unread": list(UNREAD), "note": reason, "now": now,
                "trouble": list(_TROUBLE),
            },
        )  # fmt: skip
        ended = [row[0] for row in cursor.fetchall()]
    write_audits(
        actor=actor,
        action="webhook_event.discarded",
        targets=list(WebhookEvent.objects.filter(pk__in=ended).defer("body", "original_body")),
        changes={"note": ["", reason]},
    )
    return len(ended)


def correct_event(*, event_id: UUID, text: str, actor: User, now: datetime) -> str:
    """Give an event of the desk another body and let it run; the first body is kept. Returns its status.

    A session that the event has already stays. Raises: NotFound, InvalidWebhookJson, UnableToCorrect.
    """
    event = WebhookEvent.objects.select_for_update().filter(pk=event_id).first()
    if event is None:
        raise NotFound("Evento não encontrado.")
    if event.status == WebhookEvent.Status.PENDING:
        raise UnableToCorrect("Este evento já está na fila: aguarde o fim do processamento.")
    entry = _read(text, event)
    before = bytes(event.body or b"")
    event.original_body = before if event.original_body is None else event.original_body
    event.body, event.kind, event.queued, event.slot = entry.body, entry.kind, entry.queued, entry.slot
    event.status, event.due_at, event.attempts, event.reason, event.error = WebhookEvent.Status.PENDING, now, 0, "", ""
    if event.session_id is None:
        if not entry.instance_id:
            raise UnableToCorrect("O JSON não diz a instância: preencha instanceId.")
        event.instance_id = entry.instance_id
        event.status, event.reason = WebhookEvent.Status.ORPHAN, "unknown_instance"
    event.save()
    if event.session_id is None and give_addresses(ids=[event.pk], now=now):
        event.refresh_from_db(fields=["tenant_id", "session_id", "status"])
    write_audits(
        actor=actor,
        action="webhook_event.corrected",
        targets=[event],
        changes={"body_sha256": [_digest(before), _digest(entry.body)]},
    )
    return str(event.status)


def body_text(body: Any) -> str:
    """A stored body as text; what is not UTF-8 is replaced."""
    return zlib.decompress(bytes(body)).decode("utf-8-sig", "replace") if body is not None else ""


def _overdue(now: datetime) -> QuerySet[Any, Any]:
    late = now - OVERDUE
    due = WebhookItem.objects.order_by().filter(fate__in=_WAITING, due_at__lt=late).values("event_id")[:_LISTED]
    expired = WebhookItem.objects.order_by().filter(fate="parked", expires_at__lt=late).values("event_id")
    return due.union(expired[:_LISTED], all=True)


def _read(text: str, event: WebhookEvent) -> Entry:
    raw = text.strip().encode("utf-8", "surrogatepass")
    parsed = parse_body(raw)
    entries = split_entries(raw=raw, parsed=parsed, request_id=event.request_id, received_at=event.received_at)
    if len(entries) != 1 or not isinstance(parsed, dict):
        raise UnableToCorrect("Deixe um único evento no JSON: um objeto, sem lista.")
    return entries[0]


def _digest(body: bytes) -> str:
    return hashlib.sha256(zlib.decompress(body)).hexdigest() if body else ""
