"""REST of tickets and conversations: one happy case and each refusal, and answers that fit their description."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from pydantic import BaseModel, TypeAdapter

from leadengine.accounts.scopes import tenant_scope, user_scope
from tests.api import by_cookie, by_key, refused, send
from tests.conftest import World
from tests.tickets.desk import arrive, give, nobody_id, phone
from tickets.models import CloseReason, Message, MessageReaction, Queue, QueueMembership, Ticket
from tickets.serializers import (
    CloseReasonShape,
    DraftShape,
    EventShape,
    NoteShape,
    QueueShape,
    ThreadItemShape,
    ThreadShape,
    TicketShape,
)
from tickets.services.lifecycle import add_note, close_ticket

NOW = datetime(2026, 3, 12, 14, 30, tzinfo=UTC)


def fits(shape: type[BaseModel], data: Any) -> Any:
    """The data, held against its description: no field more, none less."""
    kind: Any = list[shape] if isinstance(data, list) else shape  # type: ignore[valid-type]
    TypeAdapter(kind).validate_json(json.dumps(data))
    return data


def ids(answer: tuple[int, Any]) -> list[str]:
    assert answer[0] == 200, answer
    return [row["id"] for row in answer[1]["data"]]


# --- Lists and one ticket ----------------------------------------------------------------------------------------


def test_ticket_has_exactly_the_fields_of_the_contract(world: World) -> None:
    ticket = give(arrive(world, "oi", "tudo bem?"), world.agent)
    data = fits(TicketShape, send(by_cookie(world.agent), "get", f"/api/tickets/{ticket.pk}")[1]["data"])
    assert set(data) == {
        "id", "number", "protocol", "status", "priority", "subject", "contact", "queue", "assignee", "sessionId",
        "channel", "lead", "tags", "unread", "snoozedUntil", "closeReason", "closedAt", "timeline",
        "lastMessagePreview", "version", "metadata", "createdAt", "updatedAt",
    }  # fmt: skip
    assert data["contact"] == {
        "id": str(ticket.contact_id), "name": "Maria", "phone": "+5511988887777", "avatarUrl": "", "isGroup": False
    }  # fmt: skip
    assert (data["assignee"]["name"], data["queue"]["name"], data["lead"]["stageName"]) == ("Ana", "Recepcao", "Novo")
    assert (data["unread"], data["lastMessagePreview"]) == (2, "tudo bem?")
    assert data["metadata"]["timeline"] == data["timeline"]
    assert data["timeline"]["unansweredCount"] == 2


def test_include_gives_contact_and_lead_whole(world: World) -> None:
    ticket = arrive(world)
    for url in (f"/api/tickets/{ticket.pk}?include=contact,lead", "/api/tickets?include=contact&include=lead"):
        data = send(by_cookie(world.agent), "get", url)[1]["data"]
        row = fits(TicketShape, data[0] if isinstance(data, list) else data)
        assert row["contact"]["identities"][0]["value"] == "+5511988887777"
        assert row["lead"]["contact"]["name"] == "Maria"


def test_list_costs_the_same_for_two_rows_and_twenty(world: World) -> None:
    client = by_cookie(world.agent)
    costs = []
    for n in range(20):
        arrive(world, phone=phone(n))
        if n in {1, 19}:
            with CaptureQueriesContext(connection) as captured:
                answer = send(client, "get", "/api/tickets?include=contact,lead")
            fits(TicketShape, answer[1]["data"])
            costs.append(len(captured))
    # session, user and tenant (middleware); scope in and out, savepoint; viewer; six of the list; two of the include
    assert costs[0] == costs[1] <= 17


def test_lists_by_state_status_scope_and_filter(world: World) -> None:
    free, mine, ended = (arrive(world, phone=phone(n), at=NOW - timedelta(minutes=n)) for n in range(3))
    give(mine, world.agent)
    give(ended, world.agent)
    with user_scope(world.agent):
        close_ticket(actor=world.agent, ticket_id=ended.pk, reason_code="SOLVED", now=NOW)
    client = by_cookie(world.agent)
    f, m, e = (str(ticket.pk) for ticket in (free, mine, ended))
    for query, expected in (
        ("", [m, f]), ("state=open&sort=oldest", [m, f]), ("sort=newest", [f, m]), ("state=ended", [e]),
        ("status=RESOLVED,CLOSED", [e]), ("status=OPEN", [f]), ("status=OPEN&status=ASSIGNED", [m, f]),
        ("scope=mine", [m]), ("scope=queue", [f]), (f"assigneeId={world.agent.pk}", [m]),
        (f"queueId={world.queue.pk}&scope=queue", [f]), (f"queueId={world.foreign_queue.pk}", []),
        (f"contactId={ended.contact_id}", [e]), (f"sessionId={world.line.pk}&unread=true", [m, f]),
        ("unread=false", []), ("priority=URGENT", []), ("waitingOver=5", [m, f]), ("waitingOver=1000000", []),
        ("to=2020-01-01T00:00:00-03:00", []), ("from=2020-01-01T00:00:00Z", [m, f]),
    ):  # fmt: skip
        assert ids(send(client, "get", f"/api/tickets?{query}")) == expected, query
    for query, field in (
        ("status=OPEN,CLOSED", "status"), ("state=open&status=CLOSED", "status"), ("status=GONE", "status.0"),
        ("sort=priority", "sort"), ("queueId=x", "queueId"), ("from=yesterday", "from"), ("from=2020-01-01", "from"),
        ("colour=red", "colour"), ("waitingOver=-1", "waitingOver"),
    ):  # fmt: skip
        status, body = send(client, "get", f"/api/tickets?{query}")
        assert (status, body["error"]["details"]["errors"][0]["field"]) == (400, field), query


def test_next_page_of_a_waiting_list_is_of_the_same_list(world: World) -> None:
    for n in range(3):
        arrive(world, phone=phone(n), at=timezone.now() - timedelta(hours=1))
    client = by_cookie(world.agent)
    cursor = send(client, "get", "/api/tickets?waitingOver=30&limit=2")[1]["meta"]["nextCursor"]
    assert len(ids(send(client, "get", f"/api/tickets?waitingOver=30&limit=2&cursor={cursor}"))) == 1
    assert refused(send(client, "get", f"/api/tickets?waitingOver=31&cursor={cursor}")) == (400, "INVALID_CURSOR")


def test_counts_are_per_person_and_end_in_plus(world: World) -> None:
    ticket = give(arrive(world), world.agent)
    data = send(by_cookie(world.agent), "get", "/api/tickets/counts")[1]["data"]
    assert data == {"mine": 1, "queue": 0, "all": 1, "snoozed": 0, "ended": 0, "unread": 1}
    assert send(by_cookie(world.agent2), "get", "/api/tickets/counts")[1]["data"]["all"] == 0
    with tenant_scope(world.ipe.pk), connection.cursor() as cursor:
        cursor.execute(
            """INSERT INTO tickets_ticket (id, tenant_id, number, protocol, contact_id, queue_id)
               SELECT gen_random_uuid(), tenant_id, number + n, 'p' || n, contact_id, queue_id
               FROM tickets_ticket, generate_series(1, 1000) n WHERE id = %s""",
            [ticket.pk],
        )
    assert send(by_cookie(world.agent), "get", "/api/tickets/counts")[1]["data"]["queue"] == "999+"


# --- What is done to a ticket ------------------------------------------------------------------------------------


def test_life_of_a_ticket_over_the_api(world: World) -> None:
    ticket = arrive(world)
    ana, url = by_key(world.agent), f"/api/tickets/{ticket.pk}"
    taken = send(ana, "post", f"{url}/assign", {"userId": str(world.agent.pk), "version": ticket.version})
    assert (taken[0], fits(TicketShape, taken[1]["data"])["status"]) == (200, "ASSIGNED")
    patched = send(ana, "patch", url, {"subject": "Troca", "priority": "HIGH", "metadata": {"order": 7}})[1]["data"]
    assert (patched["subject"], patched["priority"], patched["metadata"]["order"]) == ("Troca", "HIGH", 7)
    assert send(ana, "post", f"{url}/read", {"position": 1})[1]["data"]["unread"] == 0
    assert send(ana, "post", f"{url}/unread")[1]["data"]["unread"] == 1
    closed = send(ana, "post", f"{url}/close", {"reasonCode": "OTHER", "note": "x"})[1]["data"]
    assert (closed["status"], closed["closeReason"]) == ("CLOSED", "OTHER")
    assert closed["closedAt"]
    assert send(ana, "post", f"{url}/reopen")[1]["data"]["status"] == "ASSIGNED"
    left = send(ana, "post", f"{url}/unassign")[1]["data"]
    assert (left["status"], left["assignee"]) == ("OPEN", None)
    kinds = [row["kind"] for row in fits(EventShape, send(ana, "get", f"{url}/events")[1]["data"])]
    assert kinds == ["OPENED", "ASSIGNED", "PRIORITY_CHANGED", "CLOSED", "REOPENED", "UNASSIGNED"]


def test_giving_a_ticket_away_succeeds_although_it_leaves_ones_sight(world: World) -> None:
    ticket = give(arrive(world), world.agent)
    ana, url = by_cookie(world.agent), f"/api/tickets/{ticket.pk}"
    status, body = send(ana, "post", f"{url}/assign", {"userId": str(world.agent2.pk)})
    assert (status, body["data"]["assignee"]["name"]) == (200, "Bruno")
    assert refused(send(ana, "get", url)) == (404, "NOT_FOUND")


def test_refusals_of_actions(world: World) -> None:
    ticket = give(arrive(world), world.agent)
    url = f"/api/tickets/{ticket.pk}"
    ana, bruno, sofia = by_cookie(world.agent), by_cookie(world.agent2), by_cookie(world.supervisor)
    bruno_id, ana_id = str(world.agent2.pk), str(world.agent.pk)
    status, body = send(bruno, "post", f"{url}/assign", {"userId": bruno_id})
    assert (status, body["error"]["code"]) == (409, "TICKET_ALREADY_ASSIGNED")
    assert body["error"]["details"]["assignee"] == {"id": ana_id, "name": "Ana"}
    for client, method, path, sent, expected in (
        (sofia, "post", "/assign", {"userId": bruno_id, "expectedAssigneeId": None}, (409, "TICKET_ALREADY_ASSIGNED")),
        (sofia, "post", "/assign", {"userId": str(world.outsider.pk)}, (422, "INVALID_ASSIGNEE")),
        (ana, "post", "/assign", {"userId": ana_id, "extra": 1}, (400, "VALIDATION_ERROR")),
        (ana, "post", "/assign", {"userId": 5}, (400, "VALIDATION_ERROR")),
        (ana, "post", "/assign", None, (400, "VALIDATION_ERROR")),
        (ana, "post", "/reopen", None, (409, "INVALID_TRANSITION")),
        (ana, "post", "/close", {"reasonCode": "NOPE"}, (400, "VALIDATION_ERROR")),
        (ana, "post", "/close", {"reasonCode": "OTHER"}, (400, "VALIDATION_ERROR")),
        (ana, "post", "/read", {"position": -1}, (400, "VALIDATION_ERROR")),
        (ana, "post", "/read", {"position": 2**63}, (400, "VALIDATION_ERROR")),
        (ana, "post", "/read", {"position": True}, (400, "VALIDATION_ERROR")),
        (ana, "patch", "", {"metadata": {"timeline": {}}}, (400, "VALIDATION_ERROR")),
        (ana, "patch", "", {"status": "CLOSED"}, (400, "VALIDATION_ERROR")),
        (ana, "patch", "", {"priority": "SOON"}, (400, "VALIDATION_ERROR")),
        (ana, "delete", "", None, (405, "METHOD_NOT_ALLOWED")),
        (ana, "get", "/close", None, (405, "METHOD_NOT_ALLOWED")),
        (bruno, "post", "/unassign", None, (404, "NOT_FOUND")),
    ):  # fmt: skip
        assert refused(send(client, method, url + path, sent)) == expected, (path, sent)
    with tenant_scope(world.ipe.pk):
        assert Ticket.objects.get().version == ticket.version


def test_stale_version_is_told_the_present_ticket(world: World) -> None:
    ticket = arrive(world)
    status, body = send(
        by_cookie(world.agent), "post", f"/api/tickets/{ticket.pk}/close", {"reasonCode": "SOLVED", "version": 0}
    )
    assert (status, body["error"]["code"]) == (409, "VERSION_CONFLICT")
    shown = fits(TicketShape, body["error"]["details"]["ticket"])
    assert shown["version"] == body["error"]["details"]["version"] == ticket.version


def test_unknown_foreign_and_invisible_tickets_are_the_same(world: World) -> None:
    with tenant_scope(world.ipe.pk):
        QueueMembership.objects.filter(user=world.agent).update(visibility="OWN")
    hidden, foreign = arrive(world), arrive(world, tenant=world.cedro)
    client = by_cookie(world.agent)
    for ticket_id in (hidden.pk, foreign.pk, nobody_id()):
        for method, path, body in (
            ("get", "", None), ("patch", "", {"subject": "x"}), ("post", "/close", {"reasonCode": "SOLVED"}),
            ("post", "/read", {"position": 1}), ("post", "/unread", None), ("get", "/messages", None),
            ("get", "/messages?scope=contact", None), ("get", "/thread", None), ("get", "/notes", None),
            ("post", "/notes", {"body": "x"}), ("get", "/events", None), ("get", "/draft", None),
            ("put", "/draft", {"body": "x"}), ("delete", "/draft", None),
            ("post", "/assign", {"userId": str(world.agent.pk)}),
        ):  # fmt: skip
            answer = send(client, method, f"/api/tickets/{ticket_id}{path}", body)
            assert refused(answer) == (404, "NOT_FOUND"), (method, path)


# --- Conversations -----------------------------------------------------------------------------------------------


def test_messages_of_a_ticket_and_of_its_contact(world: World) -> None:
    first = arrive(world, "a", "b", at=NOW - timedelta(days=3))
    with user_scope(world.admin):
        close_ticket(actor=world.admin, ticket_id=first.pk, reason_code="SOLVED", now=NOW - timedelta(days=2))
    ticket = arrive(world, "c", "d", "e", at=NOW)
    client, url = by_cookie(world.supervisor), f"/api/tickets/{ticket.pk}/messages"

    def texts(query: str) -> tuple[list[str], dict[str, Any]]:
        status, body = send(client, "get", f"{url}?{query}")
        assert status == 200, body
        fits(ThreadItemShape, body["data"])
        return [row["message"]["content"] if row["kind"] == "message" else row["kind"] for row in body["data"]], body[
            "meta"
        ]

    assert texts("") == (
        ["c", "d", "e"], {"nextCursor": None, "previousCursor": None, "before": None, "after": None, "limit": 50}
    )  # fmt: skip
    shown, meta = texts("limit=2")
    assert (shown, meta["before"]) == (["d", "e"], 2)
    assert texts("limit=2&before=2")[0] == ["c"]
    shown, meta = texts("limit=2&after=0")
    assert (shown, meta["after"]) == (["c", "d"], 2)
    whole = ["ticket", "a", "b", "event", "event", "ticket", "c", "d", "e", "event"]
    assert sorted(texts("scope=contact")[0]) == sorted(whole)
    shown, meta = texts("scope=contact&limit=4")
    assert [text for text in shown if len(text) == 1] == ["b", "c", "d", "e"]
    older, last = texts(f"scope=contact&limit=4&cursor={meta['nextCursor']}")
    assert [text for text in older if len(text) == 1] == ["a"]
    assert last["nextCursor"] is None
    for query in ("before=1&after=2", "scope=contact&before=1", "cursor=x"):
        assert refused(send(client, "get", f"{url}?{query}")) == (400, "VALIDATION_ERROR")
    assert refused(send(client, "get", f"{url}?scope=contact&cursor=x")) == (400, "INVALID_CURSOR")
    assert refused(send(client, "get", f"{url}?around={nobody_id()}")) == (404, "NOT_FOUND")


def test_thread_goes_on_from_its_cursor(world: World) -> None:
    ticket = arrive(world, "um", "dois")
    client, url = by_cookie(world.agent), f"/api/tickets/{ticket.pk}/thread"
    body = send(client, "get", url)[1]
    fits(ThreadShape, body["data"])
    assert [item["kind"] for item in body["data"]["items"]] == ["message", "message", "event"]
    assert body["meta"] == {"cursor": "2.1", "more": False}
    assert send(client, "get", f"{url}?after=2.1")[1]["data"] == {"items": [], "states": []}
    arrive(world, "tres")
    with tenant_scope(world.ipe.pk):
        message = Message.objects.get(position=1)
        MessageReaction.objects.create(tenant=world.ipe, message=message, actor="me", emoji="👍", at=NOW)
        Message.objects.filter(position=2).update(revoked_at=NOW)
    body = send(client, "get", f"{url}?after=2.1&states=1..2")[1]
    fits(ThreadShape, body["data"])
    assert [item["message"]["content"] for item in body["data"]["items"]] == ["tres"]
    states = body["data"]["states"]
    assert [[one["emoji"] for one in row["reactions"]] for row in states] == [["👍"], []]
    assert [row["content"] for row in states] == ["um", ""]
    shown = send(by_cookie(world.supervisor), "get", f"{url}?states=2..2")[1]["data"]["states"]
    assert shown[0]["content"] == "dois"
    for query in ("after=2", "after=a.b", "states=1", "states=2..1", "states=1..1000", "after=9999999999999999999.1"):
        assert refused(send(client, "get", f"{url}?{query}")) == (400, "VALIDATION_ERROR"), query


def test_notes_are_written_read_and_kept_private(world: World) -> None:
    ticket = arrive(world)
    url = f"/api/tickets/{ticket.pk}/notes"
    ana, bruno, sofia = (by_cookie(user) for user in (world.agent, world.agent2, world.supervisor))
    assert send(ana, "post", url, {"body": " para todos "})[0] == 201
    status, body = send(ana, "post", url, {"body": "só minha", "visibility": "PRIVATE"})
    assert (status, fits(NoteShape, body["data"])["seq"]) == (201, 3)
    for client, seen in (
        (ana, ["para todos", "só minha"]),
        (bruno, ["para todos"]),
        (sofia, ["para todos", "só minha"]),
    ):
        assert [note["body"] for note in fits(NoteShape, send(client, "get", url)[1]["data"])] == seen
        for path in ("thread", "messages?scope=contact", "events"):
            assert (
                "só minha" in json.dumps(send(client, "get", f"/api/tickets/{ticket.pk}/{path}")[1], ensure_ascii=False)
            ) is ("só minha" in seen and path != "events")
    for bad in ({}, {"body": ""}, {"body": "   "}, {"body": "x" * 4001}, {"body": "x", "visibility": "ALL"}):
        assert refused(send(ana, "post", url, bad)) == (400, "VALIDATION_ERROR")


def test_draft_is_ones_own_on_every_device(world: World) -> None:
    ticket = arrive(world)
    url = f"/api/tickets/{ticket.pk}/draft"
    one, two, bruno = by_cookie(world.agent), by_cookie(world.agent), by_cookie(world.agent2)
    assert send(one, "get", url) == (200, {"data": None})
    status, body = send(one, "put", url, {"body": "Olá, ", "kind": "REPLY"})
    assert status == 200
    fits(DraftShape, body["data"])
    assert send(two, "get", url)[1]["data"]["body"] == "Olá, "
    assert send(bruno, "get", url)[1]["data"] is None
    assert send(two, "put", url, {"body": "interna", "kind": "NOTE"})[1]["data"]["kind"] == "NOTE"
    assert send(two, "post", f"/api/tickets/{ticket.pk}/notes", {"body": "interna"})[0] == 201
    assert send(one, "get", url)[1]["data"] is None
    send(one, "put", url, {"body": "x"})
    assert send(one, "put", url, {"body": "  "})[1]["data"] is None
    send(one, "put", url, {"body": "x"})
    assert send(one, "delete", url) == (204, None)
    assert send(one, "get", url)[1]["data"] is None
    assert refused(send(one, "put", url, {"kind": "SMS"})) == (400, "VALIDATION_ERROR")


def test_queues_and_close_reasons_in_their_order(world: World) -> None:
    with tenant_scope(world.ipe.pk):
        Queue.objects.create(tenant=world.ipe, name="Antes", order_index=0)
        Queue.objects.filter(pk=world.queue.pk).update(order_index=1)
        CloseReason.objects.filter(code="SOLVED").update(order_index=9)
    client = by_cookie(world.agent)
    assert [row["name"] for row in fits(QueueShape, send(client, "get", "/api/queues")[1]["data"])] == [
        "Antes",
        "Recepcao",
    ]
    codes = [row["code"] for row in fits(CloseReasonShape, send(client, "get", "/api/close-reasons")[1]["data"])]
    assert codes == ["NO_ANSWER", "SPAM", "OTHER", "SOLVED"]


def test_list_of_notes_pages_by_sequence(world: World) -> None:
    ticket = arrive(world)
    with user_scope(world.agent):
        for n in range(5):
            add_note(actor=world.agent, ticket_id=ticket.pk, body=f"n{n}", now=NOW)
    client, url, got, cursor = by_cookie(world.agent), f"/api/tickets/{ticket.pk}/notes?limit=2", [], ""
    while cursor is not None:
        body = send(client, "get", f"{url}&cursor={cursor}")[1]
        got += [note["body"] for note in body["data"]]
        cursor = body["meta"]["nextCursor"]
    assert got == ["n0", "n1", "n2", "n3", "n4"]


@pytest.mark.parametrize("path", ["/api/tickets", "/api/tickets/counts", "/api/queues", "/api/close-reasons"])
def test_nobody_gets_nothing(world: World, path: str) -> None:
    assert refused(send(Client(), "get", path)) == (401, "UNAUTHORIZED")
