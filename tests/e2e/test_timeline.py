"""Timelines of the running product: true after random traffic, repaired after damage, rebuilt beside live traffic."""

from __future__ import annotations

import itertools
import json
import os
import random
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
import redis
import requests
from channels.layers import get_channel_layer

from leadengine.realtime.broadcast import group_of
from tests.e2e.desk import PASSWORD, Customer, Desk
from tests.product import ROOT, Product

CLIENTS, MESSAGES = 20, 1000
RECONCILED = "whatsapp.timeline.reconciled"
WAITING = """
SELECT (SELECT count(*) FROM whatsapp_webhookevent WHERE status = 'PENDING')
    + (SELECT count(*) FROM whatsapp_webhookitem
       WHERE fate = 'pending' OR fate = 'parked' AND due_at < now() + interval '1 min')
    + (SELECT count(*) FROM tickets_message m JOIN accounts_tenant t ON t.id = m.tenant_id
       WHERE t.slug = %s AND m.status IN ('QUEUED', 'SENDING'))
"""
COLUMNS = """
    message_count, inbound_count, outbound_count, unanswered_count, waiting_since, first_inbound_at, last_inbound_at,
    first_outbound_at, last_outbound_at, last_direction, last_message_at, last_message_id, last_message_preview,
    first_response_seconds, last_position, version, updated_at"""
EMPTIED = """
    message_count = 0, inbound_count = 0, outbound_count = 0, unanswered_count = 0, waiting_since = NULL,
    first_inbound_at = NULL, last_inbound_at = NULL, first_outbound_at = NULL, last_outbound_at = NULL,
    last_direction = NULL, last_message_at = NULL, last_message_id = NULL, last_message_preview = '',
    first_response_seconds = NULL"""
# Ended tickets of one contact, with four messages each.
PAST = """
WITH past AS (
    SELECT t.id AS tenant, n, gen_random_uuid() AS ticket, i.contact_id AS contact,
        (SELECT id FROM tickets_queue q WHERE q.tenant_id = t.id LIMIT 1) AS queue,
        (SELECT id FROM tickets_closereason r WHERE r.tenant_id = t.id AND r.outcome = 'RESOLVED' LIMIT 1) AS reason
    FROM accounts_tenant t JOIN leads_contactidentity i ON i.tenant_id = t.id AND i.value = %s,
        generate_series(1000001, 1000000 + %s) n
), tickets AS (
    INSERT INTO tickets_ticket (id, tenant_id, number, protocol, contact_id, queue_id, status, closed_at,
        close_reason_id, last_position)
    SELECT ticket, tenant, n, 'P' || n, contact, queue, 'RESOLVED', now(), reason, 4 FROM past
)
INSERT INTO tickets_message (id, tenant_id, ticket_id, contact_id, position, direction, status, source, content,
    sent_at)
SELECT gen_random_uuid(), tenant, ticket, contact, p, CASE WHEN p = 3 THEN 'OUTBOUND' ELSE 'INBOUND' END,
    CASE WHEN p = 3 THEN 'READ' ELSE 'RECEIVED' END, CASE WHEN p = 3 THEN 'AGENT' ELSE 'CUSTOMER' END,
    'mensagem ' || p, now() - interval '1 day' + p * interval '1 min'
FROM past, generate_series(1, 4) p
"""


class Client:
    """One customer, and the agent who answers them."""

    def __init__(self, desk: Desk, headers: dict[str, str], number: int) -> None:
        self.customer: Customer = desk.customer(f"Relógio {number}")
        self.desk, self.headers, self.random = desk, headers, random.Random(number)
        self.theirs: list[str] = []
        self.ticket_id = ""
        self.answered = 0

    def begin(self) -> None:
        self.theirs += self.customer.writes("primeira")
        self.desk.product.wait_for(lambda: bool(self.desk.rows(_TICKET, f"+{self.customer.phone}")))
        self.ticket_id = self.customer.ticket_id

    def act(self, count: int) -> None:
        """Let so many things happen, most of them messages."""
        deeds: list[tuple[int, Callable[[], None]]] = [
            (5, self.write), (2, self.write_late), (5, self.answer), (2, self.type_on_phone), (2, self.ack),
            (2, self.edit), (1, self.revoke),
        ]  # fmt: skip
        for _ in range(count):
            self.random.choices([deed for _, deed in deeds], [weight for weight, _ in deeds])[0]()

    def write(self) -> None:
        count = self.random.choice((1, 1, 3))
        self.theirs += self.customer.writes(*(f"texto {self.random.random()}" for _ in range(count)))

    def write_late(self) -> None:
        at = time.time() - self.random.randrange(1, 900)
        self.theirs += self.customer.writes(f"atrasada {at}", timestamp=at)

    def answer(self) -> None:
        answer = requests.post(
            f"{self.desk.product.url}/api/tickets/{self.ticket_id}/messages", headers=self.headers, timeout=30,
            json={"type": "text", "text": f"resposta {uuid.uuid4()}"},
        )  # fmt: skip
        assert answer.status_code == 202, answer.text
        self.answered += 1

    def type_on_phone(self) -> None:
        at = time.time() - self.random.choice((0, 0, 30, 300))
        self.customer.writes(f"do telefone {self.random.random()}", fromMe=True, timestamp=at)

    def ack(self) -> None:
        """Out of order, again, or an error."""
        sent = self.customer.got()
        if sent:
            body = {"id": self.random.choice(sent)["id"], "status": self.random.choice((0, 1, 2, 3, 4, 4))}
            self.desk.product.simulate(f"/_sim/{self.desk.line_id}/ack", body)

    def edit(self) -> None:
        body = {"id": self.random.choice((self.theirs[0], self.theirs[-1])), "text": f"editada {self.random.random()}"}
        self.desk.product.simulate(f"/_sim/{self.desk.line_id}/edit", body)

    def revoke(self) -> None:
        self.desk.product.simulate(f"/_sim/{self.desk.line_id}/revoke", {"id": self.random.choice(self.theirs)})


_TICKET = (
    "SELECT 1 FROM tickets_ticket t JOIN leads_contactidentity i ON i.contact_id = t.contact_id WHERE i.value = %s"
)


@pytest.fixture(scope="module")
def desk(product: Product) -> Desk:
    """A tenant of its own, also where the product outlives a run: its tickets are counted."""
    return Desk(product, f"relogio-{uuid.uuid4().hex[:6]}", "Relógio")


@pytest.fixture(scope="module")
def neighbour(product: Product) -> Desk:
    made = Desk(product, "vizinho", "Vizinho")
    made.customer("Vizinho").writes("oi")
    return made


def command(desk: Desk, name: str, *arguments: str) -> subprocess.Popen[str]:
    """A command of the running product, in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "manage.py", name, *arguments], cwd=ROOT, env={**os.environ, **desk.product.env},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def answer_of(desk: Desk, name: str, *arguments: str) -> dict[str, dict[str, Any]]:
    """What a run says of each tenant, by slug."""
    process = command(desk, name, *arguments, "--json")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return {one["tenant"]: one for one in json.loads(out)["tenants"]}


def columns(desk: Desk) -> list[tuple[Any, ...]]:
    return desk.rows(f"SELECT id, {COLUMNS} FROM tickets_ticket ORDER BY id")


@contextmanager
def told(desk: Desk) -> Iterator[list[tuple[str, dict[str, Any]]]]:
    """The reconciliations that tenants are told of meanwhile, as (slug, data); complete when the block has ended."""
    layer: Any = get_channel_layer()
    slugs = {str(pk): slug for pk, slug in desk.rows("SELECT id, slug FROM accounts_tenant")}
    found: list[tuple[str, dict[str, Any]]] = []
    engine: Any = redis.Redis.from_url(desk.product.env["REDIS_URL"])
    listener = engine.pubsub()
    try:
        listener.subscribe(*(f"{layer.prefix}__group__{group_of(pk)}" for pk in slugs))
        for _ in slugs:
            assert listener.get_message(timeout=10)["type"] == "subscribe"
        yield found
        while (message := listener.get_message(timeout=0.5)) is not None:
            for item in layer.deserialize(message["data"])["items"]:
                if item["event"] == RECONCILED:
                    data = json.loads(item["frame"])["data"]
                    found.append((slugs[data["tenantId"]], data))
    finally:
        listener.close()
        engine.close()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_1000_random_messages_by_20_clients_then_damage(desk: Desk, neighbour: Desk) -> None:
    login = {"email": desk.people["sofia"], "password": PASSWORD}
    token = requests.post(f"{desk.product.url}/api/auth/login", json=login, timeout=10).json()["data"]["token"]
    headers = {"Authorization": f"Bearer {token['accessToken']}"}
    desk.behave(autoAck=[2])  # the clients tell the rest: what was delivered can no longer fail
    clients = [Client(desk, headers, number) for number in range(CLIENTS)]
    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(Client.begin, clients))
        acting = [pool.submit(client.act, MESSAGES // CLIENTS) for client in clients]
        for _ in range(3):
            amid = answer_of(desk, "reconcile_timelines", "--dry-run")
            assert [one["tickets"] for one in amid.values()] == [[]] * len(amid)
        for one in acting:
            one.result()
    desk.product.wait_for(lambda: _still(desk), 120)

    facts = dict(desk.rows(_FACTS, desk.slug))
    assert facts["messages"] >= 0.7 * MESSAGES
    assert min(facts[name] for name in ("late", "edited", "revoked", "failed", "phone", "read")) > 0, facts
    quiet = columns(desk)
    process = command(desk, "reconcile_timelines", "--dry-run", "--fail-on-drift", "--tenant", desk.slug)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, f"{desk.slug}: {CLIENTS} tickets checked, 0 wrong\n"), out + err

    wrong = _damage(desk, clients)
    damaged = columns(desk)
    seen = answer_of(desk, "reconcile_timelines", "--dry-run")
    assert {one["ticketId"]: set(one["changes"]) for one in seen[desk.slug]["tickets"]} == wrong
    assert [one["ticketsChanged"] for slug, one in seen.items() if slug != desk.slug] == [0] * (len(seen) - 1)
    assert columns(desk) == damaged
    with told(desk) as events:
        done = answer_of(desk, "reconcile_timelines")
    assert {one["ticketId"]: set(one["changes"]) for one in done[desk.slug]["tickets"]} == wrong
    assert sorted(slug for slug, _ in events) == sorted(done)
    assert dict(events)[desk.slug]["ticketsChanged"] == len(wrong)
    assert dict(events)[neighbour.slug]["ticketsChanged"] == 0
    assert [row[:-2] for row in columns(desk)] == [row[:-2] for row in quiet]
    repaired = columns(desk)
    with told(desk) as events:
        again = answer_of(desk, "reconcile_timelines")
    assert {one["ticketsChanged"] for one in again.values()} == {0}
    assert sorted(slug for slug, _ in events) == sorted(done)
    assert columns(desk) == repaired


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_backfill_beside_live_traffic_killed_and_started_again(desk: Desk) -> None:
    tickets = 3000
    old = desk.customer("Antigo")
    old.writes("oi")
    desk.product.wait_for(lambda: bool(desk.rows(_TICKET, f"+{old.phone}")))
    desk.change(PAST, f"+{old.phone}", tickets)
    tenant = desk.value("SELECT id FROM accounts_tenant WHERE slug = %s", desk.slug)
    desk.change(f"UPDATE tickets_ticket SET {EMPTIED} WHERE tenant_id = %s", tenant)

    stop, written = threading.Event(), itertools.count()
    live = [desk.customer(f"Vivo {number}") for number in range(3)]

    def write() -> None:
        for customer in itertools.cycle((*live, old)):
            if stop.wait(0.05):
                return
            customer.writes(f"ao vivo {next(written)}")

    writing = threading.Thread(target=write)
    writing.start()
    try:
        first = command(desk, "backfill_timelines", "--tenant", desk.slug, "--batch", "20")
        desk.product.wait_for(lambda: _rebuilt(desk) >= 200, 60)
        first.kill()
        first.communicate()
        done = _rebuilt(desk)
        assert 200 <= done < tickets
        second = answer_of(desk, "backfill_timelines", "--tenant", desk.slug)[desk.slug]
        assert second["ticketsChecked"] >= tickets
        assert tickets - done <= second["ticketsChanged"] <= tickets - done + 100, "what was done is not done again"
    finally:
        stop.set()
        writing.join(30)
    desk.product.wait_for(lambda: _still(desk), 60)
    assert _rebuilt(desk) == tickets
    assert answer_of(desk, "backfill_timelines", "--tenant", desk.slug, "--dry-run")[desk.slug]["ticketsChanged"] == 0
    stored = "SELECT count(*) FROM tickets_message WHERE content LIKE 'ao vivo %%' AND tenant_id = %s"
    assert desk.value(stored, tenant) == next(written)


_FACTS = """
SELECT unnest(ARRAY['messages', 'late', 'edited', 'revoked', 'failed', 'phone', 'read']), unnest(ARRAY[count(*),
    count(*) FILTER (WHERE m.metadata ? 'lateBySeconds'), count(m.edited_at), count(m.revoked_at),
    count(*) FILTER (WHERE m.status = 'FAILED'), count(*) FILTER (WHERE m.source = 'PHONE'), count(m.read_at)])
FROM tickets_message m JOIN accounts_tenant t ON t.id = m.tenant_id WHERE t.slug = %s
"""


def _damage(desk: Desk, clients: list[Client]) -> dict[str, set[str]]:
    """Make some tickets wrong in several ways; what the check has to say of each."""
    ways = [
        ("message_count = message_count + 1", {"messageCount"}),
        ("last_message_at = last_message_at - interval '1 hour'", {"lastMessageAt"}),
        ("first_inbound_at = NULL, inbound_count = 0", {"firstInboundAt", "inboundCount"}),
        ("last_message_preview = 'outra coisa'", {"lastMessagePreview"}),
        ("last_direction = CASE last_direction WHEN 'INBOUND' THEN 'OUTBOUND' ELSE 'INBOUND' END", {"lastDirection"}),
    ]
    for client, (change, _) in zip(clients, ways, strict=False):
        desk.change(f"UPDATE tickets_ticket SET {change} WHERE id = %s", client.ticket_id)
    return {client.ticket_id: fields for client, (_, fields) in zip(clients, ways, strict=False)}


_REBUILT = """
SELECT count(*) FROM tickets_ticket k JOIN accounts_tenant t ON t.id = k.tenant_id
WHERE t.slug = %s AND k.number > 1000000 AND k.message_count = 4
"""


def _still(desk: Desk) -> bool:
    """Nothing is under way, neither at the broker nor here."""
    pending = desk.product.simulate("/_sim/state")["webhooks"].get("pending", 0)
    return bool(pending == 0 and desk.value(WAITING, desk.slug) == 0)


def _rebuilt(desk: Desk) -> int:
    return int(desk.value(_REBUILT, desk.slug))
