"""The prepared backlog is what the door would have stored, and the drain makes of it what it should."""

from __future__ import annotations

import json
import time
from collections import Counter

import pytest

from leadengine.accounts.scopes import service_scope
from leadengine.operations.bench.backlog import fill_backlog
from leadengine.operations.bench.bodies import KNOWN, Writer, Written, introductions, messages
from tests.conftest import World
from tests.environment import SERVER, url
from tests.whatsapp.inbound import store
from tickets.models import Message, Ticket
from whatsapp.models import WebhookEvent
from whatsapp.services.drain import drain_inbox
from whatsapp.services.persistence import saving

ONE = Written(1, 7, "ipe-01", "5511988887777")
SUPER = (
    f"postgres://{SERVER.username}:{SERVER.password or ''}@{SERVER.hostname}:{SERVER.port}/"
    + url("x").rpartition("/")[2]
)


@pytest.mark.django_db(transaction=True)
def test_rows_are_those_of_the_door(committed_world: World) -> None:
    with service_scope("test"), saving():
        committed_world.line.connection_id = "ipe-01"
        committed_world.line.save(update_fields=["connection_id"])
    second = int(time.time())
    store(*Writer().twins(ONE))
    fill_backlog(SUPER, [ONE])
    same_second = int(time.time()) == second
    with service_scope("test"):
        columns = ("tenant_id", "session_id", "instance_id", "kind", "status", "slot", "queued", "source", "reason")
        rows = WebhookEvent.objects.order_by("id").values_list(*columns)
        door, copied = sorted(rows[:2]), sorted(rows[2:])
        assert door == copied
        bodies = [bytes(event.body or b"") for event in WebhookEvent.objects.order_by("kind", "id")]
    if same_second:  # the broker's times are whole seconds
        assert bodies[0] == bodies[1]
        assert bodies[2] == bodies[3]


@pytest.mark.django_db(transaction=True)
def test_twins_make_one_message_each(committed_world: World) -> None:
    with service_scope("test"), saving():
        committed_world.line.connection_id = "ipe-01"
        committed_world.line.save(update_fields=["connection_id"])
    ids = fill_backlog(SUPER, messages(1, ["ipe-01"], 20))
    assert len(set(ids)) == 40
    drain_inbox()
    with service_scope("test"):
        assert Message.objects.count() == 20
        assert set(WebhookEvent.objects.values_list("status", flat=True)) == {"PROCESSED"}
        assert Ticket.objects.count() == len({message.phone for message in messages(1, ["ipe-01"], 20)})


def test_one_of_five_messages_comes_from_somebody_new() -> None:
    lines = ["a", "b"]
    known = {(one.line, one.phone) for one in introductions(lines)}
    assert len(known) == 2 * KNOWN
    written = list(messages(1, lines, 1000))
    assert sum((one.line, one.phone) not in known for one in written) == 200
    assert len({one.external_id for one in written} | {one.external_id for one in messages(2, lines, 1000)}) == 2000
    assert set(Counter(one.line for one in written).values()) == {500}
    assert {len(one.phone) for run in (1, 9, 89, 219) for one in messages(run, lines, 50)} == {13}


def test_a_body_has_the_size_that_is_wanted_and_says_who_it_is() -> None:
    writer = Writer(1024)
    canonical, raw = writer.twins(ONE)
    assert len(canonical) == 1024
    assert json.loads(canonical)["payload"]["message"]["id"] == ONE.external_id
    assert json.loads(raw)["payload"]["messages"][0]["key"]["id"] == ONE.external_id
    assert f"#{ONE.number:09}" in json.loads(canonical)["payload"]["message"]["text"]
    assert len(writer.twins(Written(2, 8, "ipe-01", "5511988887778"))[0]) == 1024
