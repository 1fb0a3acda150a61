"""A message that proves the pipeline: it becomes a ticket as any other would, and nothing of it stays."""

from __future__ import annotations

from datetime import datetime

from django.db import transaction

from leadengine.accounts.scopes import service_scope, tenant_scope
from leadengine.ids import uuid7
from whatsapp.models import WebhookEvent, WhatsAppSession
from whatsapp.schemas import Address, Content, InboundMessage
from whatsapp.services.batch import Claim, Work, process_batch

_PHONE = "+5511900000000"


def try_message(*, now: datetime) -> str:
    """Take a made-up inbound message through the drain's own transaction and roll that back; returns its fate.

    `stored` is the good one; `queue_missing` when the tenant has no queue that takes it; empty without any session.
    """
    with service_scope("a session for the smoke message"):
        session = WhatsAppSession.objects.filter(deleted_at=None, tenant__is_active=True).order_by("pk").first()
    if session is None:
        return ""
    with tenant_scope(session.tenant_id):
        event = WebhookEvent.objects.create(tenant_id=session.tenant_id, session=session, kind="SMOKE", body=b"")
        work = Work(event.pk, session.pk, now, 0, _message(now))
        process_batch(
            tenant_id=session.tenant_id, claims=[Claim(event.pk, event.pk, [work], 0, is_event=True)], now=now
        )
        transaction.set_rollback(True)  # announcements wait for the commit, so nobody hears of it
    return work.fate if work.fate == "stored" else work.reason or work.fate


def _message(now: datetime) -> InboundMessage:
    digits = _PHONE.removeprefix("+")
    return InboundMessage(
        instance_id="smoke", external_id=f"SMOKE-{uuid7()}", chat=f"{digits}@s.whatsapp.net",
        address=Address(phone=_PHONE, wa_address=digits), is_group=False,
        content=Content(type="TEXT", payload_type="text", text="smoke"), sent_at=now, sent_at_original=None,
        origin="canonical", reason="ok", broker_metadata={}, metadata={}, canonical=None,
    )  # fmt: skip
