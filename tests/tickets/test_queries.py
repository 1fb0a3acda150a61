"""What lists and threads read: contents, visibility, order, pages, and a pinned number of queries."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from leadengine.accounts.models import User
from leadengine.accounts.scopes import tenant_scope, user_scope
from leadengine.errors import NotFound
from leadengine.paging import InvalidCursor
from leads.models import Tag
from tests.conftest import World
from tests.tickets.desk import arrive, give, nobody_id, phone
from tickets.models import Message, MessageReaction, Note, QueueMembership, Ticket, TicketTag
from tickets.policy import Viewer, load_viewer
from tickets.queries import (
    Filters,
    ThreadItem,
    find_page,
    list_page,
    message_page,
    tab_counts,
    thread_delta,
    thread_page,
    ticket_detail,
)
from tickets.services.lifecycle import add_note, close_ticket, mark_read, mark_unread, save_draft, take_ticket

NOW = datetime(2026, 3, 12, 14, 30, tzinfo=UTC)


@pytest.fixture
def desk(world: World) -> Iterator[World]:
    """The world, inside the scope of its tenant, as a request would be."""
    with tenant_scope(world.ipe.pk):
        yield world


def viewer_of(user: User) -> Viewer:
    return load_viewer(user)


def queries(call: Any, *arguments: Any, **named: Any) -> tuple[Any, int]:
    with CaptureQueriesContext(
        connection,
    ) as captured:
        result = call(*arguments, **named)
    return result, len(captured)


def texts(items: list[ThreadItem]) -> list[str]:
    def shown(item: ThreadItem) -> str:
        if item.message:
            return item.message.message.content
        if isinstance(item.entry, Note):
            return f"({item.entry.body})"
        return f"<{item.entry.kind}>" if item.entry else f"#{item.ticket.number}"

    return [shown(item) for item in items]


# --- Lists -------------------------------------------------------------------------------------------------------


def test_tabs_hold_what_they_say(desk: World) -> None:
    mine, theirs, free, ended = (arrive(desk, phone=phone(n)) for n in range(4))
    give(mine, desk.agent)
    give(theirs, desk.agent2)
    snoozed = give(arrive(desk, phone=phone(9)), desk.agent)
    Ticket.objects.filter(pk=snoozed.pk).update(
        status="PENDING", pending_reason="SNOOZED", snoozed_until=NOW + timedelta(days=1)
    )
    give(ended, desk.agent)
    close_ticket(actor=desk.agent, ticket_id=ended.pk, reason_code="SOLVED", now=NOW)
    expected = {
        desk.agent: {"mine": [mine], "queue": [free], "all": [mine, free], "snoozed": [snoozed], "ended": [ended]},
        desk.agent2: {"mine": [theirs], "queue": [free], "all": [theirs, free], "snoozed": [], "ended": []},
        desk.supervisor: {
            "mine": [], "queue": [free], "all": [mine, theirs, free], "snoozed": [snoozed], "ended": [ended]
        },
        desk.superuser: {"mine": [], "all": [mine, theirs, free]},
    }  # fmt: skip
    for user, tabs in expected.items():
        viewer = viewer_of(user)
        for tab, tickets in tabs.items():
            assert [row.ticket for row in list_page(viewer, tab).rows] == tickets, (user.name, tab)
        assert {tab: tab_counts(viewer)[tab] for tab in tabs} == {tab: len(rows) for tab, rows in tabs.items()}


def test_list_waits_longest_first_and_other_sorts_go_by_the_last_message(desk: World) -> None:
    tickets = [arrive(desk, phone=phone(n), at=NOW - timedelta(minutes=n * 7 % 5)) for n in range(5)]
    answered = arrive(desk, phone=phone(7), at=NOW - timedelta(hours=1))
    arrive(desk, "respondi", phone=phone(7), at=NOW + timedelta(minutes=1), direction="OUTBOUND")
    viewer = viewer_of(desk.supervisor)
    waiting = sorted(tickets, key=lambda ticket: ticket.last_message_at or NOW)

    def order(sort: str) -> list[Ticket]:
        return [row.ticket for row in list_page(viewer, "all", sort).rows]

    assert order("") == order("nonsense") == [*waiting, answered]
    assert order("newest") == [answered, *reversed(waiting)]
    assert order("oldest") == [*waiting, answered]


def test_row_carries_what_is_drawn(desk: World) -> None:
    ticket = give(arrive(desk, "um", "dois"), desk.agent)
    tag = Tag.objects.create(tenant=desk.ipe, name="vip")
    TicketTag.objects.create(tenant=desk.ipe, ticket=ticket, tag=tag)
    save_draft(actor=desk.agent, ticket_id=ticket.pk, kind="REPLY", body="rascunho")
    Message.objects.create(
        tenant=desk.ipe, ticket=ticket, contact_id=ticket.contact_id, position=3, direction="OUTBOUND",
        status="FAILED", source="AGENT", author=desk.agent, sent_at=NOW,
    )  # fmt: skip
    row = list_page(viewer_of(desk.agent), "mine").rows[0]
    assert (row.unread, row.draft, row.phone, row.failed) == (2, "rascunho", "+5511988887777", True)
    assert (row.last.content if row.last else "", row.tags) == ("dois", [tag])
    assert row.lead is not None
    assert row.lead.stage.name == "Novo"
    other = list_page(viewer_of(desk.supervisor), "all").rows[0]
    assert (other.unread, other.draft) == (2, "")


def test_filters_narrow_a_list(desk: World) -> None:
    urgent, read, old = (arrive(desk, phone=phone(n), at=NOW - timedelta(hours=n)) for n in range(3))
    Ticket.objects.filter(pk=urgent.pk).update(priority="URGENT")
    mark_read(actor=desk.agent, ticket_id=read.pk, position=1, now=NOW)
    viewer = viewer_of(desk.agent)
    for filters, expected in (
        (Filters(priorities=("URGENT", "HIGH")), {urgent}),
        (Filters(unread=True), {urgent, old}),
        (Filters(unread=False), {read}),
        (Filters(waiting_before=NOW - timedelta(minutes=90)), {old}),
        (Filters(contact_id=old.contact_id), {old}),
        (Filters(session_id=desk.line.pk), {urgent, read, old}),
        (Filters(session_id=desk.foreign_line.pk), set()),
        (Filters(queue_id=desk.queue.pk, assignee_id=desk.agent.pk), set()),
        (Filters(until=datetime(2020, 1, 1, tzinfo=UTC)), set()),
        (Filters(since=datetime(2020, 1, 1, tzinfo=UTC)), {urgent, read, old}),
    ):
        assert {row.ticket for row in find_page(viewer, filters).rows} == expected, filters


def test_pages_repeat_and_skip_nothing_while_tickets_are_inserted(desk: World) -> None:
    first = [arrive(desk, phone=phone(n), at=NOW - timedelta(minutes=n // 3)) for n in range(40)]
    viewer = viewer_of(desk.supervisor)
    seen: list[Ticket] = []
    cursor: str | None = ""
    added = 100
    while cursor is not None:
        page = list_page(viewer, "all", cursor=cursor, limit=7)
        seen += [row.ticket for row in page.rows]
        cursor = page.next_cursor
        for _ in range(4):
            added += 1
            arrive(desk, phone=phone(added), at=NOW - timedelta(minutes=added % 17))
    assert len(seen) == len(set(seen))
    assert set(first) <= set(seen)
    cursor = list_page(viewer, "all", limit=7).next_cursor
    for who, tab, sort, filters in (
        (viewer, "queue", "", None),
        (viewer, "all", "newest", None),
        (viewer_of(desk.admin), "all", "", None),
        (viewer, "all", "", Filters(queue_id=desk.queue.pk)),
    ):
        with pytest.raises(InvalidCursor):
            list_page(who, tab, sort, cursor=cursor, filters=filters)


def test_counts_stop_at_a_thousand(desk: World) -> None:
    ticket = give(arrive(desk), desk.agent)
    with connection.cursor() as cursor:
        cursor.execute(
            """INSERT INTO tickets_ticket (id, tenant_id, number, protocol, contact_id, queue_id)
               SELECT gen_random_uuid(), tenant_id, number + n, 'p' || n, contact_id, queue_id
               FROM tickets_ticket, generate_series(1, 1100) n WHERE id = %s""",
            [ticket.pk],
        )
    counts, number = queries(tab_counts, viewer_of(desk.agent))
    assert counts == {"mine": 1, "queue": 1000, "all": 1000, "snoozed": 0, "ended": 0, "unread": 1}
    assert number == 1


def test_number_of_queries_does_not_grow_with_rows(desk: World) -> None:
    for n in range(12):
        ticket = give(arrive(desk, "um", "dois", phone=phone(n)), desk.agent)
        arrive(desk, "resposta", phone=phone(n), direction="OUTBOUND")
    viewer = viewer_of(desk.agent)
    page, number = queries(list_page, viewer, "mine")
    assert (len(page.rows), number) == (12, 6)
    assert queries(ticket_detail, viewer, ticket.pk)[1] == 8
    Message.objects.update(reply_to=Message.objects.filter(ticket=ticket).first())
    assert queries(thread_page, viewer, ticket.pk)[1] == 7
    assert queries(thread_page, viewer, ticket.pk, around=Message.objects.filter(ticket=ticket)[1].pk)[1] == 8
    assert queries(thread_delta, viewer, ticket.pk, position=0, seq=0, states=(1, 3))[1] == 7
    assert queries(message_page, viewer, ticket.pk)[1] == 5


def test_rows_load_nothing_more_when_they_are_drawn(desk: World) -> None:
    ticket = give(arrive(desk, "um"), desk.agent)
    viewer = viewer_of(desk.agent)
    rows, page = list_page(viewer, "mine").rows, thread_page(viewer, ticket.pk)
    detail = ticket_detail(viewer, ticket.pk)

    def draw() -> None:
        for row in [*rows, detail.row]:
            one = row.ticket
            _ = (one.contact.name, one.queue.colour, one.assignee, one.close_reason, one.closed_by)
            _ = row.lead and (row.lead.stage.name, row.lead.contact.name)
            _ = row.last and row.last.author
        for item in page.items:
            _ = (item.ticket.queue.name, item.ticket.assignee, item.ticket.close_reason, item.ticket.contact.name)
            _ = item.message and (item.message.message.author, item.message.media)
        _ = [note.author.name for note in detail.notes]

    assert queries(draw)[1] == 0


def test_agent_with_own_sees_no_other_ticket_anywhere(desk: World) -> None:
    QueueMembership.objects.filter(user=desk.agent).update(visibility="OWN")
    mine = give(arrive(desk, phone=phone(1)), desk.agent)
    hidden = arrive(desk, phone=phone(2))
    viewer = viewer_of(desk.agent)
    assert [row.ticket for row in find_page(viewer, Filters()).rows] == [mine]
    assert tab_counts(viewer)["all"] == 1
    assert tab_counts(viewer)["queue"] == 0
    for call in (thread_page, ticket_detail, message_page):
        with pytest.raises(NotFound):
            call(viewer, hidden.pk)
    with pytest.raises(NotFound):
        thread_delta(viewer, hidden.pk, position=0, seq=0)


# --- Threads -----------------------------------------------------------------------------------------------------


def history(world: World, *, days: int = 2) -> list[Ticket]:
    """Tickets of one contact, a day apart, of three messages each; all but the last are closed."""
    tickets = []
    for day in range(days):
        at = NOW - timedelta(days=days - day)
        for minute in range(3):
            ticket = arrive(world, f"{day}.{minute}", at=at + timedelta(minutes=minute))
        if day < days - 1:
            close_ticket(actor=world.admin, ticket_id=ticket.pk, reason_code="SOLVED", now=at + timedelta(minutes=5))
        tickets.append(ticket)
    return tickets


def test_thread_is_the_contacts_history_with_separators(desk: World) -> None:
    tickets = history(desk)
    add_note(
        actor=desk.admin, ticket_id=tickets[0].pk, body="nota", now=NOW - timedelta(days=2) + timedelta(seconds=90)
    )
    page = thread_page(viewer_of(desk.supervisor), tickets[1].pk)
    assert texts(page.items) == [
        "#1", "0.0", "<OPENED>", "0.1", "(nota)", "0.2", "<CLOSED>", "#2", "1.0", "<OPENED>", "1.1", "1.2"
    ]  # fmt: skip
    assert (page.older, page.newer, page.read_position) == (None, None, 0)
    assert page.cursor == "3.1"


def test_parts_of_a_history_join_without_gap_or_repetition(desk: World) -> None:
    tickets = history(desk, days=4)
    add_note(
        actor=desk.admin, ticket_id=tickets[1].pk, body="nota", now=NOW - timedelta(days=3) + timedelta(seconds=70)
    )
    viewer = viewer_of(desk.supervisor)
    whole = texts(thread_page(viewer, tickets[3].pk).items)
    assert len([text for text in whole if "." in text]) == 12

    page = thread_page(viewer, tickets[3].pk, limit=5)
    up = texts(page.items)
    while page.older:
        page = thread_page(viewer, tickets[3].pk, before=page.older, limit=5)
        up = texts(page.items) + up
    assert up == whole

    first = Message.objects.filter(ticket=tickets[0]).earliest("position")
    page = thread_page(viewer, tickets[3].pk, around=first.pk, limit=5)
    down = texts(page.items)
    assert page.older is None
    while page.newer:
        page = thread_page(viewer, tickets[3].pk, after=page.newer, limit=5)
        down += texts(page.items)
    assert down == whole


def test_thread_around_a_message_has_both_sides(desk: World) -> None:
    tickets = history(desk, days=3)
    middle = Message.objects.get(content="1.1")
    page = thread_page(viewer_of(desk.supervisor), tickets[2].pk, around=middle.pk, limit=5)
    assert [text for text in texts(page.items) if "." in text] == ["0.2", "1.0", "1.1", "1.2", "2.0"]
    for missing in (nobody_id(), Message.objects.get(ticket=arrive(desk, phone=phone(5))).pk):
        with pytest.raises(NotFound):
            thread_page(viewer_of(desk.supervisor), tickets[2].pk, around=missing)


def test_history_holds_only_tickets_that_the_viewer_sees(desk: World) -> None:
    closed, live = history(desk)
    Ticket.objects.filter(pk=closed.pk).update(assignee=desk.agent2)
    page = thread_page(viewer_of(desk.agent), live.pk)
    assert [text for text in texts(page.items) if "." in text] == ["1.0", "1.1", "1.2"]
    answer, quoted = Message.objects.get(content="1.2"), Message.objects.get(content="0.1")
    Message.objects.filter(pk=answer.pk).update(reply_to=quoted)
    for user, expected in ((desk.agent, None), (desk.supervisor, quoted)):
        items = thread_page(viewer_of(user), live.pk).items
        shown = next(item.message for item in items if item.message and item.message.message == answer)
        assert shown.quoted == expected


def test_delta_is_what_came_after_a_cursor_and_how_the_rest_is_now(desk: World) -> None:
    ticket = arrive(desk, "um", "dois")
    viewer = viewer_of(desk.agent)
    cursor = thread_page(viewer, ticket.pk).cursor
    position, seq = map(int, cursor.split("."))
    assert thread_delta(viewer, ticket.pk, position=position, seq=seq).items == []
    arrive(desk, "tres")
    take_ticket(actor=desk.agent, ticket_id=ticket.pk, now=NOW)
    add_note(actor=desk.agent, ticket_id=ticket.pk, body="nota", now=NOW)
    MessageReaction.objects.create(
        tenant=desk.ipe, message=Message.objects.get(content="um"), actor="me", emoji="👍", at=NOW
    )
    delta = thread_delta(viewer, ticket.pk, position=position, seq=seq, states=(1, 2))
    assert sorted(texts(delta.items)) == ["(nota)", "<ASSIGNED>", "tres"]
    assert [[one.emoji for one in row.reactions] for row in delta.states] == [["👍"], []]
    assert (delta.cursor, delta.more) == ("3.3", False)


def test_delta_comes_in_pages_until_nothing_is_left(desk: World) -> None:
    ticket = arrive(desk, *(str(n) for n in range(25)))
    for n in range(5):
        add_note(actor=desk.agent, ticket_id=ticket.pk, body=f"n{n}", now=NOW)
    viewer = viewer_of(desk.agent)
    position = seq = 0
    got: list[str] = []
    more = True
    while more:
        delta = thread_delta(viewer, ticket.pk, position=position, seq=seq, limit=10)
        got += texts(delta.items)
        position, seq = map(int, delta.cursor.split("."))
        more = delta.more
    assert sorted(got) == sorted([*(str(n) for n in range(25)), *(f"(n{n})" for n in range(5)), "<OPENED>"])
    assert (position, seq) == (25, 6)


def test_private_note_is_for_its_author_and_supervisors(desk: World) -> None:
    ticket = arrive(desk)
    add_note(actor=desk.agent, ticket_id=ticket.pk, body="só minha", visibility="PRIVATE", now=NOW)
    for user, sees in ((desk.agent, True), (desk.agent2, False), (desk.supervisor, True)):
        viewer = viewer_of(user)
        delta = thread_delta(viewer, ticket.pk, position=0, seq=0)
        assert ("(só minha)" in texts(delta.items)) is sees
        assert ("(só minha)" in texts(thread_page(viewer, ticket.pk).items)) is sees
        assert bool(ticket_detail(viewer, ticket.pk).notes) is sees
        assert delta.cursor == "1.2"


def test_messages_of_one_ticket_by_position(desk: World) -> None:
    ticket = arrive(desk, *(str(n) for n in range(1, 31)))
    viewer = viewer_of(desk.agent)

    def page(**where: Any) -> tuple[list[int], int | None, int | None]:
        found = message_page(viewer, ticket.pk, limit=10, **where)
        return [row.message.position for row in found.messages], found.before, found.after

    assert page() == (list(range(21, 31)), 21, None)
    assert page(before=21) == (list(range(11, 21)), 11, 20)
    assert page(before=5) == (list(range(1, 5)), None, 4)
    assert page(after=20) == (list(range(21, 31)), 21, None)
    assert page(after=3) == (list(range(4, 14)), 4, 13)
    assert page(before=1) == ([], None, None)
    assert page(after=30) == ([], None, None)
    middle = Message.objects.get(position=15)
    assert page(around=middle.pk) == (list(range(10, 20)), 10, 19)
    with pytest.raises(NotFound):
        page(around=nobody_id())


def test_thumbnails_and_keys_are_not_read_with_the_thread(desk: World) -> None:
    ticket = arrive(desk)
    with CaptureQueriesContext(connection) as captured:
        thread_page(viewer_of(desk.agent), ticket.pk)
    sql = " ".join(one["sql"] for one in captured)
    for column in (
        '"tickets_messagemedia"."thumbnail",',
        '"tickets_messagemedia"."source"',
        '"tickets_message"."payload"',
    ):
        assert column not in sql


# --- Read state --------------------------------------------------------------------------------------------------


def unread(user: User, ticket: Ticket) -> int:
    return next(row.unread for row in find_page(viewer_of(user), Filters()).rows if row.ticket == ticket)


def test_unread_is_per_person_and_moves_by_their_own_act_only(desk: World) -> None:
    ticket = arrive(desk, "um", "dois", "tres")
    with user_scope(desk.agent):
        mark_read(actor=desk.agent, ticket_id=ticket.pk, position=2, now=NOW)
    assert (unread(desk.agent, ticket), unread(desk.agent2, ticket)) == (1, 3)
    mark_read(actor=desk.agent, ticket_id=ticket.pk, position=99, now=NOW)
    marker = mark_read(actor=desk.agent, ticket_id=ticket.pk, position=1, now=NOW)
    assert (marker.last_position, unread(desk.agent, ticket)) == (3, 0)
    arrive(desk, "resposta", direction="OUTBOUND")
    assert unread(desk.agent, ticket) == 0
    arrive(desk, "quatro")
    assert unread(desk.agent, ticket) == 1
    assert mark_unread(actor=desk.agent, ticket_id=ticket.pk, now=NOW).last_position == 4
    mark_read(actor=desk.agent, ticket_id=ticket.pk, position=5, now=NOW)
    assert unread(desk.agent, ticket) == 0
    mark_unread(actor=desk.agent, ticket_id=ticket.pk, now=NOW)
    assert unread(desk.agent, ticket) == 1
    assert unread(desk.agent2, ticket) == 4
