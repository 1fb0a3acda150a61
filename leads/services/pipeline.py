"""Leads follow the conversation: made by the first message, touched by each, answered once a day."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from django.db import connection

from leadengine.ids import uuid7
from leadengine.sql import dumps, insert_rows, unnest

DEFAULT_STAGES = (
    ("Novo", "NEW", "#175CD3", False, False),
    ("Contatado", "CONTACTED", "#5B6875", False, False),
    ("Qualificado", "QUALIFIED", "#0B6E4F", False, False),
    ("Proposta", "PROPOSAL", "#B25E09", False, False),
    ("Negociação", "NEGOTIATION", "#7A5AF8", False, False),
    ("Ganho", "CONVERTED", "#079455", True, False),
    ("Perdido", "LOST", "#B42318", False, True),
)


@dataclass(slots=True)
class LeadTouch:
    """One inbound message of a person: it creates the lead or moves its last contact."""

    contact_id: UUID
    message_id: UUID
    preview: str
    at: datetime


@dataclass(slots=True)
class LeadChange:
    """What touch_leads did to one lead, for `lead.updated`."""

    lead_id: UUID
    contact_id: UUID
    created: bool
    stage_id: UUID
    status: str
    rank: str
    last_contact_at: datetime | None
    version: int
    activities: int = field(default=0)


def touch_leads(*, tenant_id: UUID, touches: Sequence[LeadTouch], now: datetime) -> list[LeadChange]:
    """Create the missing leads, move last_contact_at forward only, and add one WHATSAPP_REPLIED per message."""
    if not touches:
        return []
    latest: dict[UUID, datetime] = {}
    for touch in touches:
        latest[touch.contact_id] = max(touch.at, latest.get(touch.contact_id, touch.at))
    with connection.cursor() as cursor:
        cursor.execute("SELECT id FROM leads_pipelinestage WHERE tenant_id = %s AND status = 'NEW'", [tenant_id])
        stage = cursor.fetchone()
        if stage is None:
            create_default_stages(tenant_id=tenant_id)
            return touch_leads(tenant_id=tenant_id, touches=touches, now=now)
        rows = []
        for contact_id, at in sorted(latest.items()):
            lead_id = uuid7()
            rows.append((lead_id, tenant_id, contact_id, stage[0], "NEW", "WHATSAPP", at, lead_id.hex))
        source, arrays = unnest(
            {
                "id": "uuid", "tenant_id": "uuid", "contact_id": "uuid", "stage_id": "uuid", "status": "text",
                "source": "text", "last_contact_at": "timestamptz", "rank": "text",
            },
            rows,
        )  # fmt: skip
        cursor.execute(
            f"""INSERT INTO leads_lead
                    (id, tenant_id, contact_id, stage_id, status, source, last_contact_at, rank)
                SELECT * FROM {source}
                ON CONFLICT (contact_id) DO UPDATE SET version = leads_lead.version + 1,
                    last_contact_at = greatest(leads_lead.last_contact_at, excluded.last_contact_at)
                RETURNING contact_id, id, xmax = 0, stage_id, status, rank, last_contact_at, version""",  # noqa: S608
            arrays,
        )
        changes = {
            row[0]: LeadChange(row[1], row[0], row[2], row[3], row[4], row[5], row[6], row[7])
            for row in cursor.fetchall()
        }
        activities: list[tuple[object, ...]] = [
            (uuid7(), tenant_id, change.lead_id, "CREATED", now, "{}") for change in changes.values() if change.created
        ]
        for touch in touches:
            change = changes[touch.contact_id]
            change.activities += 1
            data = dumps({"messageId": str(touch.message_id), "preview": touch.preview})
            activities.append((uuid7(), tenant_id, change.lead_id, "WHATSAPP_REPLIED", touch.at, data))
        insert_rows(
            cursor,
            "leads_leadactivity",
            {
                "id": "uuid", "tenant_id": "uuid", "lead_id": "uuid", "kind": "text", "at": "timestamptz",
                "metadata": "jsonb",
            },
            activities,
        )  # fmt: skip
    return list(changes.values())


def note_answers(*, tenant_id: UUID, answers: Sequence[tuple[UUID, datetime]]) -> None:
    """Messages of ours left to contacts: one WHATSAPP_SENT per lead and day of the tenant's zone."""
    if not answers:
        return
    latest = dict(sorted(answers, key=lambda answer: answer[1]))
    source, arrays = unnest(
        {"id": "uuid", "contact_id": "uuid", "at": "timestamptz"},
        [(uuid7(), contact_id, at) for contact_id, at in sorted(latest.items())],
    )
    with connection.cursor() as cursor:
        cursor.execute(
            f"""INSERT INTO leads_leadactivity (id, tenant_id, lead_id, kind, at)
                SELECT u.id, l.tenant_id, l.id, 'WHATSAPP_SENT', u.at FROM {source} AS u (id, contact_id, at)
                JOIN leads_lead l ON l.contact_id = u.contact_id JOIN accounts_tenant t ON t.id = l.tenant_id
                WHERE l.tenant_id = %s AND NOT EXISTS (
                    SELECT 1 FROM leads_leadactivity a WHERE a.lead_id = l.id AND a.kind = 'WHATSAPP_SENT'
                        AND a.at >= date_trunc('day', u.at, t.timezone))""",  # noqa: S608
            [*arrays, tenant_id],
        )


def create_default_stages(*, tenant_id: UUID) -> None:
    """Give a tenant the seven stages of spec/tickets-leads.md section 6; harmless when they exist."""
    with connection.cursor() as cursor:
        insert_rows(
            cursor,
            "leads_pipelinestage",
            {
                "id": "uuid", "tenant_id": "uuid", "name": "text", "status": "text", "colour": "text",
                "is_won": "boolean", "is_lost": "boolean", "order_index": "smallint",
            },
            [
                (uuid7(), tenant_id, name, status, colour, won, lost, index)
                for index, (name, status, colour, won, lost) in enumerate(DEFAULT_STAGES)
            ],
            "ON CONFLICT (tenant_id, status) DO NOTHING",
        )  # fmt: skip
