"""An echo whose text the broker altered: the bubble shows what left and keeps what was asked (spec/outbound.md 10)."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from leadengine.accounts.scopes import tenant_scope
from tests.conftest import World
from tests.whatsapp.inbound import receive, text_event
from tickets.models import Message

pytestmark = pytest.mark.django_db(transaction=True)


def echo(text: str, external_id: str) -> dict[str, Any]:
    event = text_event(text, external_id=external_id)
    event["event"] = "MESSAGE_OUTBOUND"
    event["payload"]["contact"]["owner"] = "device"
    return event


def test_altered_text_is_shown_and_the_request_is_kept(committed_world: World) -> None:
    receive(text_event("Oi"))
    with tenant_scope(committed_world.ipe.pk):
        inbound = Message.objects.get()
        Message.objects.create(
            tenant=committed_world.ipe, ticket=inbound.ticket, contact=inbound.contact, position=2,
            session_id=committed_world.line.pk, direction="OUTBOUND", content="{Olá|Oi}, Maria", status="SENT",
            source="AGENT", author=committed_world.agent, external_id="ALTERED", sent_at=datetime.now(UTC),
        )  # fmt: skip
    receive(echo("Olá, Maria", "ALTERED"), echo("Olá, Maria", "ALTERED"))
    with tenant_scope(committed_world.ipe.pk):
        row = Message.objects.get(external_id="ALTERED")
        assert (row.content, row.metadata["requestedText"], row.version) == ("Olá, Maria", "{Olá|Oi}, Maria", 1)
        assert Message.objects.count() == 2
