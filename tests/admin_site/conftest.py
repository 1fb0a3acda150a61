"""A back office with something on every screen: two tenants with one row of each kind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from django.db.models import Model
from django.test import Client
from django.utils import timezone

from leadengine.accounts.models import ApiKey, AuditLog, Tenant, User
from leadengine.accounts.scopes import service_scope, tenant_scope
from leadengine.accounts.services import create_api_key, write_audit
from leadengine.ids import uuid7
from leadengine.webhooks.models import Attempt, Delivery, Endpoint, OutgoingEvent
from leads.models import Contact, ContactMerge, Lead, PipelineStage, Tag
from tests.conftest import World
from tests.tickets.desk import arrive
from tests.whatsapp.inbound import text_event
from tickets.models import CloseReason, Message, OutboundAttempt, Queue, Ticket
from whatsapp.models import (
    DeadLetter,
    PersistenceJournal,
    RecoveryRun,
    SessionEvent,
    WebhookEvent,
    WebhookItem,
    WhatsAppAtendimento,
    WhatsAppSession,
)
from whatsapp.services.intake import parse_body, split_entries
from whatsapp.services.persistence import saving

SCREENS: tuple[type[Model], ...] = (
    Ticket, Message, Queue, CloseReason, WhatsAppSession, WhatsAppAtendimento, WebhookEvent, DeadLetter, Contact,
    ContactMerge, Lead, PipelineStage, Tag, User, ApiKey, AuditLog, PersistenceJournal, RecoveryRun, Endpoint, Delivery,
)  # fmt: skip
PHONE = "+5511988887777"
QR = "2@QRSECRET"


@dataclass
class Office:
    """One row per screen, of the tenant `ipe` and of `cedro`."""

    world: World
    ours: dict[type[Model], Any]
    theirs: dict[type[Model], Any]


def address(model: type[Model], row: Any = None, name: str = "") -> str:
    """The list of a model, the page of a row, or another screen of it."""
    base = f"/admin/{model._meta.app_label}/{model._meta.model_name}/"
    return f"{base}{row.pk}/{name or 'change'}/" if row is not None else f"{base}{name}"


def furnish(world: World, tenant: Tenant, number: int = 1) -> dict[type[Model], Any]:
    """Give a tenant one more row of each kind; `number` makes them differ."""
    ipe = tenant == world.ipe
    owner, line = (world.admin, world.line) if ipe else (world.outsider, world.foreign_line)
    ticket = arrive(world, f"Oi {number}", phone=f"+55119888{number:05d}" if number > 1 else PHONE, tenant=tenant)
    arrive(
        world, "Resposta", phone=f"+55119888{number:05d}" if number > 1 else PHONE, tenant=tenant, direction="OUTBOUND"
    )
    now, mine = timezone.now(), {"tenant": tenant}
    raw = str(text_event("corpo secreto", phone=PHONE)).replace("'", '"').replace("False", "false").encode()
    body = split_entries(raw=raw, parsed=parse_body(raw), request_id="t", received_at=now)[0].body
    with tenant_scope(tenant.pk), saving():
        answer = Message.objects.filter(ticket=ticket, direction="OUTBOUND").get()
        Message.objects.filter(pk=answer.pk).update(status="FAILED", author=owner, error={"code": "BROKER_ERROR"})
        OutboundAttempt.objects.create(**mine, message=answer, number=1, claim_token=uuid7(), claimed_at=now)
        event = WebhookEvent.objects.create(
            **mine, session=line, instance_id=f"i{number}", kind="MESSAGE_INBOUND", status="FAILED", body=body
        )
        WebhookItem.objects.create(
            **mine, event=event, index=0, kind="message", fate="failed", reason="processing_error", error=f"x {PHONE}"
        )
        SessionEvent.objects.create(**mine, session=line, new_status="connected", source="api")
        WhatsAppSession.objects.filter(pk=line.pk).update(qr_raw=QR, qr_code=QR, phone_number=PHONE)
        atendimento = WhatsAppAtendimento.objects.create(
            **mine, owner=owner, connection_id=line.connection_id, chat_id=f"55119888{number:05d}@s.whatsapp.net",
            ticket_id=ticket.pk,
        )  # fmt: skip
        tag = Tag.objects.create(**mine, name=f"VIP {number}")
        _, key = create_api_key(
            owner=owner, tenant_id=tenant.pk, name=f"ERP {number}", expires_at=now + timedelta(days=1)
        )
        write_audit(tenant_id=tenant.pk, actor=owner, action="queue.saved", target=tag, changes={"name": ["a", PHONE]})
        other = Contact.objects.create(**mine, name=f"Antigo {PHONE}", merged_into_id=ticket.contact_id)
        merge = ContactMerge.objects.create(
            **mine, target_id=ticket.contact_id, source=other, evidence="manual", actor=owner, moved={"messages": 2}
        )
        endpoint = Endpoint.objects.create(
            **mine, url=f"https://erp{number}.example.test/", events=["messages.new"], secret="WEBHOOKSECRET"
        )
        happened = OutgoingEvent.objects.create(**mine, type="messages.new", at=now, body='{"data":{}}')
        delivery = Delivery.objects.create(
            **mine, endpoint=endpoint, event=happened, type="messages.new", status="DEAD", tries=1, attempts=1
        )
        Attempt.objects.create(**mine, delivery=delivery, number=1, at=now, code="HTTP_ERROR", status=500)
        lead = Lead.objects.get(contact=ticket.contact_id)
        if number > 1:
            Lead.objects.filter(pk=lead.pk).update(owner=owner)
            Ticket.objects.filter(pk=ticket.pk).update(assignee=owner, status="ASSIGNED")
        return {
            Ticket: ticket, Message: answer, Queue: Queue.objects.get(is_default=True), WebhookEvent: event,
            CloseReason: CloseReason.objects.get(code="SOLVED"), WhatsAppSession: line,
            DeadLetter: DeadLetter.objects.get(pk=event.pk),
            WhatsAppAtendimento: atendimento, Contact: Contact.objects.get(pk=ticket.contact_id), Lead: lead,
            ContactMerge: merge, PipelineStage: PipelineStage.objects.get(status="NEW"), Tag: tag, User: owner,
            ApiKey: key, Endpoint: endpoint, Delivery: delivery,
            AuditLog: AuditLog.objects.filter(action="queue.saved").latest("at"),
            PersistenceJournal: PersistenceJournal.objects.create(
                **mine, line_id=uuid7(), session_id=line.pk, operation="session.observe", entry={"phone": PHONE},
                status="applied", recorded_at=now,
            ),
            RecoveryRun: RecoveryRun.objects.create(**mine, trigger="start", started_at=now, expected=1),
        }  # fmt: skip


@pytest.fixture
def office(world: World) -> Office:
    """Both tenants furnished, inside a transaction that the test rolls back."""
    return Office(world, furnish(world, world.ipe), furnish(world, world.cedro))


@pytest.fixture
def enter() -> Callable[[User], Client]:
    """Sign a person in."""

    def sign_in(user: User) -> Client:
        client = Client()
        client.force_login(user)
        return client

    return sign_in


def audits(world: World, action: str) -> list[AuditLog]:
    """The audit lines of an action in `ipe`, oldest first."""
    with service_scope("test"):
        return list(AuditLog.objects.filter(tenant=world.ipe, action=action).order_by("at", "pk"))
