"""Running stored events again from their raw bytes: after a repair, for an orphan that found its session.

The drain does the work. An item that ended well keeps its fate, so running an event again doubles nothing. Callers wake
the drain on commit.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from django.db import connection

from leadengine.accounts.models import User
from leadengine.accounts.services import write_audits
from leadengine.errors import DomainError, NotFound
from whatsapp.models import WebhookEvent, WhatsAppSession
from whatsapp.services.intake import InvalidWebhookJson, parse_body, split_entries

Status = WebhookEvent.Status
MOST = 10_000  # events that one call takes
_NOBODYS = (Status.ORPHAN, Status.REJECTED, Status.PROCESSED)


class NotAnOrphan(DomainError):
    """Este evento não é órfão: só um evento órfão pode ser atribuído a uma conexão."""

    code = "NOT_AN_ORPHAN"
    status = 409


class BodyGone(DomainError):
    """O corpo deste evento já foi apagado pela retenção: não há mais o que processar."""

    code = "WEBHOOK_BODY_GONE"
    status = 409


@dataclass(slots=True)
class Requeued:
    """What happened to the events that were named: those that will run, and why the others will not.

    `left` counts by cause: body_gone, invalid_json (correct it first), unknown_instance (still an orphan).
    """

    run: list[UUID] = field(default_factory=list)
    left: Counter[str] = field(default_factory=Counter)


def requeue_events(*, ids: Collection[UUID], actor: User | None, now: datetime) -> Requeued:
    """Let the drain run these events again, those of them that the scope sees.

    An event without a session looks for one again; it gets that of its own instance or none. With an `actor` each
    event leaves a line in the audit log.
    """
    rows = list(
        WebhookEvent.objects.select_for_update().filter(pk__in=list(ids)[:MOST]).order_by("pk").defer("original_body")
    )
    done = Requeued()
    readable = [row for row in rows if row.body is not None]
    done.left["body_gone"] += len(rows) - len(readable)
    owned = [row.pk for row in readable if row.session_id is not None]
    with connection.cursor() as cursor:
        cursor.execute(
            """UPDATE whatsapp_webhookevent SET status = 'PENDING', due_at = %s, attempts = 0, reason = '', error = '',
                   processed_at = CASE WHEN status = 'PENDING' THEN processed_at ELSE coalesce(processed_at, %s) END
               WHERE id = ANY(%s) RETURNING id""",
            [now, now, owned],
        )
        done.run = [row[0] for row in cursor.fetchall()]
    nobodys = [row for row in readable if row.session_id is None]
    described = [row for row in nobodys if _describe_again(row)]
    done.left["invalid_json"] += len(nobodys) - len(described)
    found = give_addresses(ids=[row.pk for row in described], now=now)
    done.left["unknown_instance"] += len(described) - len(found)
    done.run += found
    done.left += Counter()  # drops the zeros
    if actor is not None:
        again = set(done.run)
        targets = [row for row in rows if row.pk in again]
        write_audits(actor=actor, action="webhook_event.requeued", targets=targets)
    return done


def claim_orphans(*, ids: Collection[UUID], session_id: UUID, actor: User, now: datetime) -> list[UUID]:
    """Give orphans to a session, whose tenant they then belong to, and let the drain run them; returns those given.

    Needs the service scope. Raises: NotFound (INSTANCE_NOT_FOUND) for a session that is not there or was removed.
    """
    session = WhatsAppSession.objects.filter(pk=session_id, deleted_at=None).first()
    if session is None:
        raise InstanceNotFound
    with connection.cursor() as cursor:
        cursor.execute(
            """UPDATE whatsapp_webhookevent SET tenant_id = %s, session_id = %s, status = 'PENDING', due_at = %s,
                   attempts = 0, reason = '', error = '', processed_at = NULL
               WHERE id = ANY(%s) AND status = 'ORPHAN' AND body IS NOT NULL RETURNING id""",
            [session.tenant_id, session.pk, now, list(ids)[:MOST]],
        )
        given = [row[0] for row in cursor.fetchall()]
    write_audits(
        actor=actor,
        action="webhook_event.claimed",
        targets=list(WebhookEvent.objects.filter(pk__in=given).defer("body", "original_body")),
        changes={"session_id": [None, str(session.pk)]},
    )
    return given


def claim_orphan(*, event_id: UUID, session_id: UUID, actor: User, now: datetime) -> None:
    """Give one orphan to a session. Raises: NotFound, NotAnOrphan, BodyGone."""
    event = WebhookEvent.objects.filter(pk=event_id).values("status", "body").first()
    if event is None:
        raise NotFound("Evento não encontrado.")
    if event["status"] == Status.ORPHAN and event["body"] is None:
        raise BodyGone
    if not claim_orphans(ids=[event_id], session_id=session_id, actor=actor, now=now):
        raise NotAnOrphan


class InstanceNotFound(NotFound):
    """Conexão não encontrada."""

    code = "INSTANCE_NOT_FOUND"


def give_addresses(*, ids: Sequence[UUID], now: datetime) -> list[UUID]:
    """Look up the sessions of nobody's events once more; those that have one now will run. Returns their ids."""
    with connection.cursor() as cursor:
        cursor.execute(
            """UPDATE whatsapp_webhookevent e SET tenant_id = s.tenant_id, session_id = s.id, status = 'PENDING',
                   due_at = %s, attempts = 0, reason = '', error = '', processed_at = NULL
               FROM (SELECT DISTINCT ON (o.id) o.id AS event_id, w.id, w.tenant_id FROM whatsapp_webhookevent o
                     JOIN whatsapp_sessions w ON w.deleted_at IS NULL
                         AND (w.broker_instance_id = o.instance_id OR w.connection_id = o.instance_id)
                     WHERE o.id = ANY(%s) AND o.instance_id <> ''
                     ORDER BY o.id, w.broker_instance_id = o.instance_id DESC NULLS LAST) s
               WHERE e.id = s.event_id AND e.session_id IS NULL AND e.status = ANY(%s) RETURNING e.id""",
            [now, list(ids), [str(status) for status in _NOBODYS]],
        )
        return [row[0] for row in cursor.fetchall()]


def _describe_again(event: WebhookEvent) -> bool:
    """Read nobody's event once more: whose it is may be said by a setting that came later. False: it is no JSON."""
    if event.status == Status.ORPHAN:
        return True
    raw = zlib.decompress(bytes(event.body or b""))
    try:
        entries = split_entries(raw=raw, parsed=parse_body(raw), request_id="", received_at=event.received_at)
    except InvalidWebhookJson:
        return False
    if len(entries) != 1:
        return False
    (entry,) = entries
    event.instance_id, event.kind, event.queued, event.slot = entry.instance_id, entry.kind, entry.queued, entry.slot
    event.save(update_fields=["instance_id", "kind", "queued", "slot"])
    return True
