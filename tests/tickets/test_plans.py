"""The plans of the hot reads on tables of thousands of rows, as the application role under row level security."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from django.db import connection
from django.utils import timezone

from leadengine.accounts.models import User
from leadengine.accounts.scopes import user_scope
from tests.api import by_cookie
from tests.conftest import World
from tests.environment import NAME, SERVER
from tickets.models import Message, Ticket
from tickets.policy import Viewer, load_viewer
from tickets.queries import (
    SORTS,
    TABS,
    Filters,
    find_page,
    list_page,
    message_page,
    tab_counts,
    thread_delta,
    thread_page,
    ticket_detail,
)
from tickets.queries.sends import count_sends

BIG = {
    "tickets_ticket", "tickets_message", "tickets_ticketevent", "tickets_note", "tickets_readmarker", "tickets_draft",
    "tickets_messagemedia", "tickets_messagereaction", "leads_contact", "leads_contactidentity", "leads_lead",
    "whatsapp_webhookevent", "whatsapp_webhookitem",
}  # fmt: skip
TENANTS, TICKETS, MESSAGES = 6, 1500, 4
HEAVY = 20  # the number of a ticket with 5,000 messages

# Six tenants like `ipe`, with a tenth of the tickets live; every row of a tenant hangs on rows of the same tenant.
FILL = f"""
INSERT INTO accounts_tenant (id, slug, name, is_active, timezone, locale, settings, updated_at)
SELECT gen_random_uuid(), 't' || n, 't', true, 'UTC', 'en', '{{}}', now() FROM generate_series(2, {TENANTS}) n;
INSERT INTO tickets_queue (id, tenant_id, name, colour)
SELECT gen_random_uuid(), id, 'q', '#000000' FROM accounts_tenant WHERE slug LIKE 't%';
INSERT INTO leads_pipelinestage (id, tenant_id, name, status, colour)
SELECT gen_random_uuid(), id, 's', 'NEW', '#000000' FROM accounts_tenant WHERE slug LIKE 't%';
INSERT INTO tickets_closereason (id, tenant_id, code, label, outcome)
SELECT gen_random_uuid(), id, 'SOLVED', 's', 'RESOLVED' FROM accounts_tenant WHERE slug LIKE 't%';
CREATE TEMP TABLE t AS SELECT t.id AS tenant, n, gen_random_uuid() AS contact, gen_random_uuid() AS ticket,
    (SELECT id FROM tickets_queue q WHERE q.tenant_id = t.id LIMIT 1) AS queue,
    (SELECT id FROM tickets_closereason r WHERE r.tenant_id = t.id AND code = 'SOLVED') AS reason,
    (SELECT id FROM leads_pipelinestage s WHERE s.tenant_id = t.id AND status = 'NEW') AS stage,
    (SELECT id FROM accounts_user u WHERE u.tenant_id = t.id AND role = 'AGENT'
     ORDER BY u.name LIMIT 1 OFFSET n / 10 % 2) AS agent
FROM accounts_tenant t, generate_series(1, {TICKETS}) n WHERE slug <> 'cedro';
INSERT INTO leads_contact (id, tenant_id, name) SELECT contact, tenant, 'C' || n FROM t;
INSERT INTO leads_contactidentity (id, tenant_id, contact_id, kind, value)
SELECT gen_random_uuid(), tenant, contact, 'phone', '+55' || n FROM t;
INSERT INTO leads_lead (id, tenant_id, contact_id, stage_id, rank)
SELECT gen_random_uuid(), tenant, contact, stage, lpad(n::text, 8, '0') FROM t;
INSERT INTO tickets_ticket (id, tenant_id, number, protocol, contact_id, queue_id, status, assignee_id, closed_at,
    close_reason_id, waiting_since, last_message_at, last_position, inbound_count, last_event_seq)
SELECT ticket, tenant, n, 'p' || n, contact, queue,
    CASE WHEN n % 10 > 0 THEN 'RESOLVED' WHEN n % 20 > 0 AND agent IS NOT NULL THEN 'ASSIGNED' ELSE 'OPEN' END,
    CASE WHEN n % 10 > 0 OR n % 20 > 0 THEN agent END, CASE WHEN n % 10 > 0 THEN now() END,
    CASE WHEN n % 10 > 0 THEN reason END, CASE WHEN n % 3 > 0 THEN now() - n * interval '1 min' END,
    now() - n * interval '1 min', {MESSAGES}, {MESSAGES}, 2
FROM t;
INSERT INTO tickets_message (id, tenant_id, ticket_id, contact_id, position, direction, status, source, sent_at)
SELECT gen_random_uuid(), tenant, ticket, contact, p, 'INBOUND', 'RECEIVED', 'CUSTOMER', now() - n * interval '1 min'
FROM t, generate_series(1, {MESSAGES}) p;
INSERT INTO tickets_message (id, tenant_id, ticket_id, contact_id, position, direction, status, source, sent_at)
SELECT gen_random_uuid(), tenant, ticket, contact, p, 'INBOUND', 'RECEIVED', 'CUSTOMER', now() - p * interval '1 min'
FROM t, generate_series({MESSAGES} + 1, 5000) p WHERE n = {HEAVY} AND agent IS NOT NULL;
INSERT INTO tickets_ticketevent (id, tenant_id, ticket_id, seq, kind, at)
SELECT gen_random_uuid(), tenant, ticket, 1, 'OPENED', now() FROM t;
INSERT INTO tickets_note (id, tenant_id, ticket_id, seq, author_id, body)
SELECT gen_random_uuid(), tenant, ticket, 2, agent, 'x' FROM t WHERE agent IS NOT NULL;
INSERT INTO tickets_readmarker (id, tenant_id, user_id, ticket_id, inbound_seen)
SELECT gen_random_uuid(), tenant, agent, ticket, n % 3 FROM t WHERE agent IS NOT NULL;
INSERT INTO tickets_draft (id, tenant_id, user_id, ticket_id)
SELECT gen_random_uuid(), tenant, agent, ticket FROM t WHERE agent IS NOT NULL;
INSERT INTO tickets_messagemedia (id, tenant_id, message_id, media_type)
SELECT gen_random_uuid(), tenant_id, id, 'image' FROM tickets_message;
INSERT INTO tickets_messagereaction (id, tenant_id, message_id, actor, emoji, at)
SELECT gen_random_uuid(), tenant_id, id, 'me', 'x', now() FROM tickets_message WHERE position = 2;
INSERT INTO whatsapp_webhookevent (id, tenant_id, instance_id, status, received_at)
SELECT uuidv7(-n * interval '1 hour'), tenant, 'x', 'PROCESSED', now() - n * interval '1 hour' FROM t;
INSERT INTO whatsapp_webhookitem (id, tenant_id, event_id, index, kind, fate)
SELECT gen_random_uuid(), tenant_id, id, 0, 'message', 'stored' FROM whatsapp_webhookevent;
ANALYZE;
"""


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for part in plan.get("Plans", []):
        yield from nodes(part)


@contextmanager
def plans() -> Iterator[list[tuple[str, dict[str, Any]]]]:
    """Collects (SQL, plan) of every SELECT that runs inside."""
    found: list[tuple[str, dict[str, Any]]] = []

    def explain(execute: Callable[..., Any], sql: str, parameters: Any, many: bool, context: dict[str, Any]) -> Any:
        if sql.startswith("SELECT") and " FROM " in sql:
            cursor = context["cursor"].cursor
            cursor.execute("EXPLAIN (FORMAT JSON) " + sql, parameters)
            plan = cursor.fetchone()[0]
            found.append((sql, (json.loads(plan) if isinstance(plan, str) else plan)[0]["Plan"]))
        return execute(sql, parameters, many, context)

    with connection.execute_wrapper(explain):
        yield found


def scanned(found: list[tuple[str, dict[str, Any]]]) -> dict[str, str]:
    """The big tables that a plan reads whole, with the statement."""
    return {
        node["Relation Name"]: sql
        for sql, plan in found
        for node in nodes(plan)
        if node["Node Type"] == "Seq Scan" and node["Relation Name"] in BIG
    }


@pytest.fixture
def filled(committed_world: World) -> World:
    with psycopg.connect(SERVER._replace(path=f"/{NAME}").geturl(), autocommit=True) as admin:
        admin.execute(FILL)
    return committed_world


def test_no_hot_read_scans_a_table_and_deep_pages_begin_in_the_index(filled: World) -> None:
    for user in (filled.supervisor, filled.agent):
        with user_scope(user), plans() as found:
            _read_everything(user)
        assert not scanned(found), user.name
    with user_scope(filled.supervisor):
        viewer = load_viewer(filled.supervisor)
        for tab in ("all", "ended", "queue"):
            for sort in SORTS if tab != "ended" else ("newest", "oldest"):
                cursor = list_page(viewer, tab, sort).next_cursor
                with plans() as found:
                    list_page(viewer, tab, sort, cursor)
                conditions = [node.get("Index Cond", "") for _, plan in found[:1] for node in nodes(plan)]
                assert any("ROW(" in condition for condition in conditions), (tab, sort)
        heavy = Ticket.objects.get(number=HEAVY)
        middle = Message.objects.get(ticket=heavy, position=2500)
        for side in ("before", "after"):
            with plans() as found:
                _page_at(viewer, heavy, side, middle)
            walks = [node for _, plan in found for node in nodes(plan) if node.get("Index Name") == "message_history"]
            assert any("ROW(" in node["Index Cond"] for node in walks), side


def test_sends_of_a_line_are_counted_in_their_index(committed_world: World) -> None:
    """Without the customers' messages, what was typed on the phone, and whatever is older."""
    line, now = committed_world.line, timezone.now()
    rows = """INSERT INTO tickets_message (id, tenant_id, ticket_id, contact_id, position, direction, status, source,
            session_id, sent_at)
        SELECT gen_random_uuid(), %s, gen_random_uuid(), gen_random_uuid(), n,
            CASE n % 3 WHEN 0 THEN 'INBOUND' ELSE 'OUTBOUND' END, CASE n % 3 WHEN 0 THEN 'RECEIVED' ELSE 'SENT' END,
            CASE n % 3 WHEN 0 THEN 'CUSTOMER' WHEN 1 THEN 'PHONE' ELSE 'AGENT' END, %s, %s - n * interval '1 min'
        FROM generate_series(1, 9000) n"""
    with psycopg.connect(SERVER._replace(path=f"/{NAME}").geturl(), autocommit=True) as admin:
        admin.execute("SET session_replication_role = replica")  # what they hang on is not asked for
        admin.execute(rows.replace(" % 3", " %% 3"), [committed_world.ipe.pk, line.pk, now])
        admin.execute("ANALYZE tickets_message")
    asked = {"tenant_id": committed_world.ipe.pk, "session_id": line.pk}
    with user_scope(committed_world.agent), plans() as found:
        counted = count_sends(**asked, since=now - timedelta(minutes=60, seconds=1), until=now)
    assert counted == {"SENT": 20}
    ((_, plan),) = found
    assert [node["Index Name"] for node in nodes(plan) if "Index Name" in node] == ["message_sends_of_line"]


def test_no_list_of_the_api_scans_a_table(filled: World) -> None:
    day = timezone.now() - timedelta(days=20)
    span = f"from={day:%Y-%m-%dT%H:%M:%SZ}&to={day + timedelta(days=1):%Y-%m-%dT%H:%M:%SZ}"
    with user_scope(filled.supervisor):
        ticket = Ticket.objects.filter(status="OPEN")[0]
        lead = ticket.contact.lead
    client = by_cookie(filled.supervisor)
    for url in (
        "/api/tickets", "/api/tickets?state=ended&include=contact,lead", "/api/tickets?scope=mine",
        f"/api/tickets?contactId={ticket.contact_id}", "/api/tickets?unread=true", "/api/tickets/counts",
        f"/api/tickets/{ticket.pk}", f"/api/tickets/{ticket.pk}/messages", f"/api/tickets/{ticket.pk}/thread",
        f"/api/tickets/{ticket.pk}/messages?scope=contact", f"/api/tickets/{ticket.pk}/notes",
        f"/api/tickets/{ticket.pk}/events", f"/api/tickets/{ticket.pk}/draft", "/api/contacts",
        f"/api/contacts/{ticket.contact_id}", "/api/leads", f"/api/leads?stage={lead.stage_id}",
        "/api/integrations/whatsapp/webhook-events", f"/api/integrations/whatsapp/webhook-events?{span}",
        "/api/integrations/whatsapp/webhook-events?fate=stored",
        "/api/messages?status=FAILED,UNCONFIRMED", "/api/messages?status=SCHEDULED,QUEUED,SENDING",
        f"/api/messages?ticketId={ticket.pk}", "/api/messages",
    ):  # fmt: skip
        with plans() as found:
            body = client.get(url, {}).json()
        assert "data" in body, (url, body)
        assert not scanned(found), url
        cursor = body.get("meta", {}).get("nextCursor")
        if cursor:
            with plans() as found:
                assert client.get(f"{url}{'&' if '?' in url else '?'}cursor={cursor}").json()["data"], url
            assert not scanned(found), url


def _read_everything(user: User) -> None:
    viewer = load_viewer(user)
    for tab in TABS:
        for sort in SORTS:
            cursor = list_page(viewer, tab, sort).next_cursor
            if cursor:
                list_page(viewer, tab, sort, cursor)
    find_page(viewer, Filters(scope="mine", unread=True))
    tab_counts(viewer)
    ticket = find_page(viewer, Filters(scope="queue")).rows[0].ticket
    message = Message.objects.filter(ticket=ticket).order_by("position")[1]
    ticket_detail(viewer, ticket.pk)
    thread_page(viewer, ticket.pk)
    for where in ("before", "after", "around"):
        _page_at(viewer, ticket, where, message)
    thread_delta(viewer, ticket.pk, position=0, seq=0, states=(1, 4))
    message_page(viewer, ticket.pk, around=message.pk)


def _page_at(viewer: Viewer, ticket: Ticket, side: str, message: Message) -> None:
    place: dict[str, Any] = {side: message.pk}
    thread_page(viewer, ticket.pk, **place)
