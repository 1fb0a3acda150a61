"""Redis is a hint: flushed at any moment, nothing is sent twice and nothing is forgotten (spec/outbound.md 1.3)."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from django.utils import timezone

from leadengine.accounts.scopes import service_scope, tenant_scope
from leadengine.redis import client
from tests.conftest import World
from tests.outbound import Broker, accept, at_once, broker_running, conversation, send
from tickets.models import Message
from tickets.services.outbox import sweep_outbox
from whatsapp.models import WhatsAppSession
from whatsapp.services.persistence import saving

pytestmark = pytest.mark.django_db(transaction=True)
TICKETS, EACH = 3, 8


def test_outbound_03_and_26_redis_flushed_at_any_moment_doubles_nothing_and_forgets_nothing(
    committed_world: World, settings: Any
) -> None:
    settings.OUTBOUND_TPS_DEFAULT = 1000
    with service_scope("test"), saving():
        WhatsAppSession.objects.filter(pk=committed_world.line.pk).update(capabilities={"rate": None})
    with broker_running() as broker:
        settings.WHATSAPP_BROKER_URL = broker.url
        broker.behave(autoAck=[], humanizeMsPerChar=1)
        _send_amid_flushes(committed_world, broker)


def _send_amid_flushes(world: World, broker: Broker) -> None:
    tickets = [conversation(world, phone=f"+551198888000{number}") for number in range(TICKETS)]
    wanted = {ticket.pk: [f"{ticket.number}-{number}" for number in range(EACH)] for ticket in tickets}
    accepted, ended = threading.Event(), threading.Event()

    def write() -> list[bool]:
        """Every call twice, with one key, as who was not answered repeats it."""
        found = []
        try:
            for number in range(EACH):
                for ticket in tickets:
                    text = wanted[ticket.pk][number]
                    calls = [accept(world, ticket, text, idempotency_key=text) for _ in range(2)]
                    same = calls[0].message.pk == calls[1].message.pk
                    found.append(same and [call.replayed for call in calls] == [False, True])
        finally:
            accepted.set()
        return found

    def work() -> None:
        try:
            while not (accepted.is_set() and _nothing_waits(world)):
                send(world)
                sweep_outbox(now=timezone.now())
        finally:
            ended.set()

    def flush() -> None:
        while not ended.is_set():
            client().flushdb()
            ended.wait(0.002)

    results = at_once(write, work, work, flush)
    assert results[0] == [True] * TICKETS * EACH
    assert results[1:] == [None] * 3
    texts = broker.texts()
    assert len(texts) == TICKETS * EACH
    for ticket in tickets:
        assert [text for text in texts if text in wanted[ticket.pk]] == wanted[ticket.pk]
    with tenant_scope(world.ipe.pk):
        rows = Message.objects.filter(direction="OUTBOUND")
        assert set(rows.values_list("status", "attempts")) == {("SENT", 1)}


def _nothing_waits(world: World) -> bool:
    with tenant_scope(world.ipe.pk):
        return not Message.objects.filter(status__in=["QUEUED", "SENDING"]).exists()
