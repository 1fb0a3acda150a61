"""How many messages a session and a ticket take in a minute (spec/outbound.md sections 6 and 9)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from leadengine.accounts.scopes import tenant_scope
from leadengine.redis import client
from tests.api import by_cookie, by_key
from tests.conftest import World
from tests.outbound import accept, at_once, broker_running, claim_due, conversation, due_now, send
from tests.samples import sample
from tickets.models import Message, Ticket
from tickets.services.outbox import Queued, admission
from tickets.services.outbox.admission import read_rate
from tickets.services.outbox.refusals import RateLimited
from tickets.transports import get_transport

pytestmark = pytest.mark.django_db(transaction=True)
AT = datetime(2026, 11, 20, 12, 0, 30, tzinfo=UTC)
NEXT_MINUTE = AT.replace(minute=1, second=0)


@pytest.fixture(autouse=True)
def half_past(monkeypatch: pytest.MonkeyPatch) -> None:
    """The doors' clock stands still, so that no minute ends amid a test."""
    monkeypatch.setattr("tickets.api.messages.timezone", SimpleNamespace(now=lambda: AT))


def by_api(world: World, ticket: Ticket, text: str, at: datetime = AT) -> Queued:
    return accept(world, ticket, text, source=Message.Source.API, now=at)


def ask(client: Any, ticket: Ticket, text: str) -> Any:
    return client.post(f"/api/tickets/{ticket.pk}/messages", {"text": text}, "application/json")


def claims(world: World, at: datetime) -> list[Any]:
    with tenant_scope(world.ipe.pk):
        line = get_transport("WHATSAPP").line(world.line.pk)
    assert line is not None
    return claim_due(line=line, now=at)


def test_outbound_11_request_61_of_a_minute_is_429_for_a_key_and_waits_for_a_person(
    committed_world: World, settings: Any
) -> None:
    settings.REDIS_RATE_LIMIT_RPM = 60
    ticket = conversation(committed_world)
    for n in range(60):
        assert by_api(committed_world, ticket, f"{n:02}").message.wait_reason in {None, "ORDER"}
    refusal = ask(by_key(committed_world.agent), ticket, "demais")
    assert (refusal.status_code, refusal.json()["error"]["code"]) == (429, "RATE_LIMITED")
    assert refusal.json()["error"]["details"] == {"retryAfterMs": 30_000, "limit": 60}
    headers = {name: refusal[name] for name in ("Retry-After", *(f"X-RateLimit-{w}" for w in ("Limit", "Remaining")))}
    assert headers == {"Retry-After": "30", "X-RateLimit-Limit": "60", "X-RateLimit-Remaining": "0"}
    assert refusal["X-RateLimit-Reset"] == str(int(NEXT_MINUTE.timestamp()))
    before = sample("whatsapp_outbound_rate_limited_total", where="door")
    answer = ask(by_cookie(committed_world.agent), ticket, "de uma pessoa")
    assert answer.status_code == 202
    data = answer.json()["data"]
    assert (data["waitReason"], data["notBefore"]) == ("PACING", "2026-11-20T12:01:00Z")
    assert sample("whatsapp_outbound_rate_limited_total", where="door") == before + 1
    with broker_running() as broker:
        settings.WHATSAPP_BROKER_URL = broker.url
        broker.behave(rate={"max": 1000})
        with tenant_scope(committed_world.ipe.pk):
            Message.objects.filter(pk=data["messageId"]).update(not_before=datetime(2100, 1, 1, tzinfo=UTC))
        send(committed_world)
        assert len(broker.sent()) == 60  # it holds back nobody
        due_now(committed_world)
        send(committed_world)
        assert broker.texts() == [*(f"{n:02}" for n in range(60)), "de uma pessoa"]


def test_who_waits_takes_the_share_of_the_first_minute_that_has_one(committed_world: World, settings: Any) -> None:
    settings.REDIS_RATE_LIMIT_RPM = 2
    ticket = conversation(committed_world)
    waits = [accept(committed_world, ticket, str(n), now=AT).message.not_before for n in range(6)]
    second = NEXT_MINUTE + timedelta(minutes=1)
    assert waits == [None, None, NEXT_MINUTE, NEXT_MINUTE, second, second]
    # The minute that people have filled is over for keys, too.
    with pytest.raises(RateLimited) as refusal:
        by_api(committed_world, ticket, "x", NEXT_MINUTE)
    assert refusal.value.details == {"retryAfterMs": 120_000, "limit": 2}
    assert by_api(committed_world, ticket, "x", second + timedelta(minutes=1)).message.not_before is None
    rate = read_rate(session_id=committed_world.line.pk, now=AT)
    assert (rate.limit, rate.remaining) == (2, 0)
    fresh = read_rate(session_id=committed_world.line.pk, now=AT + timedelta(minutes=5))
    assert (fresh.used, fresh.remaining, fresh.resets_at) == (0, 2, NEXT_MINUTE + timedelta(minutes=5))


def test_a_row_leaves_in_its_minute_and_not_before(committed_world: World, settings: Any) -> None:
    settings.REDIS_RATE_LIMIT_RPM = 1
    rows = [
        accept(committed_world, conversation(committed_world, phone=f"+551198888000{n}"), now=AT).message
        for n in range(2)
    ]
    assert [claim.order.message_id for claim in claims(committed_world, AT)] == [rows[0].pk]
    assert claims(committed_world, NEXT_MINUTE - timedelta(seconds=1)) == []
    assert [claim.order.message_id for claim in claims(committed_world, NEXT_MINUTE)] == [rows[1].pk]


def test_eight_doors_at_once_share_five(committed_world: World, settings: Any) -> None:
    settings.REDIS_RATE_LIMIT_RPM = 5
    tickets = [conversation(committed_world, phone=f"+551198888000{n}") for n in range(8)]
    for round_ in range(3):
        at = AT + timedelta(minutes=round_)
        found = at_once(*[partial(by_api, committed_world, ticket, "x", at) for ticket in tickets])
        assert sum(isinstance(one, Queued) for one in found) == 5
        assert sum(isinstance(one, RateLimited) for one in found) == 3


def test_a_refusal_and_a_replay_take_nothing(committed_world: World, settings: Any) -> None:
    settings.REDIS_RATE_LIMIT_RPM = 1
    ticket = conversation(committed_world)
    key = by_key(committed_world.agent)
    path = f"/api/tickets/{ticket.pk}/messages"
    assert key.post(path, {"type": "sticker"}, "application/json").status_code == 400
    location = {"type": "location", "location": {"latitude": 1, "longitude": 1}}
    assert key.post(path, location, "application/json").status_code == 501
    for replayed in (None, "true"):
        answer = key.post(path, {"text": "x", "idempotencyKey": "k"}, "application/json")
        assert (answer.status_code, answer.headers.get("Idempotent-Replayed")) == (202, replayed)
    assert ask(key, ticket, "y").status_code == 429


def test_nobody_accepts_more_than_200_for_a_ticket_and_minute(
    committed_world: World, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert admission.MOST_PER_TICKET == 200
    monkeypatch.setattr(admission, "MOST_PER_TICKET", 3)
    ticket, other = conversation(committed_world), conversation(committed_world, phone="+5511977776666")
    for n in range(3):
        accept(committed_world, ticket, str(n), now=AT)
    before = sample("whatsapp_outbound_rate_limited_total", where="ticket")
    refusal = ask(by_cookie(committed_world.agent), ticket, "x")
    assert (refusal.status_code, refusal.json()["error"]["details"]["limit"]) == (429, 3)
    assert sample("whatsapp_outbound_rate_limited_total", where="ticket") == before + 1
    assert ask(by_cookie(committed_world.agent), other, "x").status_code == 202
    accept(committed_world, ticket, "depois", now=NEXT_MINUTE)


def test_0_is_off_and_a_flush_forgets(committed_world: World, settings: Any) -> None:
    ticket = conversation(committed_world)
    settings.REDIS_RATE_LIMIT_RPM = 0
    for n in range(3):
        assert by_api(committed_world, ticket, str(n)).message.not_before is None
    settings.REDIS_RATE_LIMIT_RPM = 1
    by_api(committed_world, ticket, "a")
    client().flushdb()
    by_api(committed_world, ticket, "b")
    with pytest.raises(RateLimited):
        by_api(committed_world, ticket, "c")
