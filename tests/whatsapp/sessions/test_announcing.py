"""News of connections on the realtime channel: few, the last one true, and nothing in them that is secret."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.db import connection, transaction
from django.utils import timezone

from leadengine.accounts.scopes import tenant_scope
from leadengine.redis import client
from tests.conftest import World
from tests.outbound import Broker, events_of, until
from tests.webhooks.receiver import connect, deliveries
from tests.whatsapp.sessions.conftest import fresh, make, sync
from tests.whatsapp.sessions.steps import connected
from tickets.services.outbox.circuit import Circuit, read_circuits, record_call
from whatsapp.models import WhatsAppSession
from whatsapp.services import lines
from whatsapp.services.lines import announce_late, announce_sessions
from whatsapp.services.sessions.changing import Change, Origin, change_session

pytestmark = pytest.mark.django_db(transaction=True)


def flip(session: WhatsAppSession) -> None:
    """The status changes, as it would in a broker that cannot decide."""

    def decide(row: WhatsAppSession) -> Change:
        after = "connecting" if row.connected else "connected"
        return Change("status", {"status": after, "state_changed_at": timezone.now()}, after, reason="test")

    changed = change_session(
        session_id=session.pk, tenant_id=session.tenant_id, operation="session.observe", origin=Origin("sse"),
        decide=decide, now=timezone.now(),
    )  # fmt: skip
    assert changed is not None


def of_session(told: list[tuple[str, Any]], session: WhatsAppSession) -> list[Any]:
    return [
        data for name, data in told if name == "whatsapp.session.updated" and data["sessionId"] == str(session.pk)
    ]  # fmt: skip


def test_session_n10_ten_flips_in_a_second_are_two_events_and_the_last_is_true(house: World, broker: Broker) -> None:
    session = connected(broker, house.admin)
    client().flushdb()
    with events_of(house) as told:
        began = timezone.now()
        for _ in range(10):
            flip(session)
        assert (timezone.now() - began).total_seconds() < lines.EVENT_PAUSE_MS / 1000
        assert announce_late(now=timezone.now()) == 0, "its second is not over"
        until(lambda: announce_late(now=timezone.now()) == 1, 3)
        news = of_session(told(), session)
    row = fresh(session)
    assert len(news) == 2
    assert [data["status"] for data in news] == ["connecting", "connected"]
    assert (news[-1]["status"], news[-1]["version"], news[-1]["connected"]) == (row.status, row.version, True)
    assert news[0]["version"] < news[1]["version"]
    assert announce_late(now=timezone.now()) == 0, "nothing is told twice"


def test_late_news_ask_for_a_worker(house: World, broker: Broker) -> None:
    session = connected(broker, house.admin)
    client().flushdb()
    flip(session)
    flip(session)
    waiting = [json.loads(raw)["headers"] for raw in client().lrange("whatsapp.maintenance", 0, -1)]
    (task,) = [one for one in waiting if one["task"] == lines.ANNOUNCE_TASK]
    eta = datetime.fromisoformat(task["eta"])
    assert 0 < (eta - timezone.now()).total_seconds() <= lines.EVENT_PAUSE_MS / 1000


def test_each_session_has_a_second_of_its_own(house: World, broker: Broker) -> None:
    one, other = connected(broker, house.admin), connected(broker, house.agent)
    client().flushdb()
    with events_of(house) as told:
        flip(one)
        flip(other)
        assert len(of_session(told(), one)) == len(of_session(told(), other)) == 1


def test_an_event_holds_neither_code_nor_phone(house: World, broker: Broker) -> None:
    client().flushdb()
    with events_of(house) as told:
        session = make(house.admin)
        until(lambda: [sync(), fresh(session).qr_code][1])
        broker.control(f"{session.broker_instance_id}/open", {"phone": "5511912345678"})
        until(lambda: [sync(), fresh(session).connected][1])
        until(lambda: [announce_late(now=timezone.now()), of_session(told(), session)[-1:]][1])
        text = json.dumps(told())
    for secret in ("912345678", "2@", "data:image"):
        assert secret not in text
    assert "hasQr" in text


def test_without_the_queue_engine_a_change_is_saved_all_the_same(
    house: World, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = connected(broker, house.admin)

    def away() -> Any:
        raise ConnectionError("away")

    monkeypatch.setattr(lines, "client", away)
    monkeypatch.setattr(lines, "UNAVAILABLE", (ConnectionError,))
    flip(session)
    assert fresh(session).status == "connecting"
    assert announce_late(now=timezone.now()) == 0


def test_an_outlet_hears_of_the_circuit_and_no_transaction_waits_for_redis(
    house: World, broker: Broker, monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    """Rows are locked there: a Redis that hangs would hold them."""
    session = connected(broker, house.admin)
    endpoint, _ = connect(house.admin, "https://erp.example.test/", "whatsapp.session.updated")
    settings.WHATSAPP_OUTBOUND_CIRCUIT_MAX_FAILURES = 1
    record_call(session_id=session.pk, token=uuid4(), outcome="bad", probe=False, now=timezone.now())
    asked: list[bool] = []

    def read(*, now: datetime) -> dict[UUID, Circuit]:
        asked.append(connection.in_atomic_block)
        return read_circuits(now=now)

    monkeypatch.setattr(lines, "read_circuits", read)
    flip(session)
    with tenant_scope(session.tenant_id):
        announce_sessions(tenant_id=session.tenant_id, ids=[session.pk], change="evidence", now=timezone.now())
    told = [json.loads(one.event.body)["data"] for one in deliveries(endpoint)]
    assert [(data["change"], data["circuit"]["state"]) for data in told] == [("status", "open"), ("evidence", "open")]
    assert asked
    assert not any(asked)
    with tenant_scope(session.tenant_id):
        later = timezone.now() + lines.SEEN_FOR
        announce_sessions(tenant_id=session.tenant_id, ids=[session.pk], change="evidence", now=later)
    assert json.loads(deliveries(endpoint)[-1].event.body)["data"]["circuit"]["state"] == "closed", "too long ago"


def test_a_rollback_tells_nothing(house: World, broker: Broker) -> None:
    session = connected(broker, house.admin)
    client().flushdb()
    with events_of(house) as told:
        with tenant_scope(session.tenant_id):
            announce_sessions(tenant_id=session.tenant_id, ids=[session.pk], change="status", now=timezone.now())
            transaction.set_rollback(True)
        assert of_session(told(), session) == []
