"""Shows 2, 16 and 18 of spec/broker.md: the webhooks, ours and the recorded ones, at our own door."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.test import override_settings

from leadengine.accounts.scopes import service_scope, tenant_scope
from leads.models import Contact, Lead
from tests.conftest import World
from tests.outbound import broker_running
from tests.whatsapp.contract.door_server import door_running
from tests.whatsapp.contract.traffic import speak
from tests.whatsapp.door import post
from tests.whatsapp.inbound import corpus_lines
from tests.whatsapp.simulator.test_webhooks import timeless
from tests.whatsapp.simulator.test_wire import KINDS
from tickets.models import Message, MessageReaction, Ticket
from whatsapp.models import WebhookEvent, WhatsAppSession
from whatsapp.services.drain import drain_inbox
from whatsapp.services.persistence import saving

pytestmark = pytest.mark.django_db(transaction=True)
RECORDED = list(corpus_lines("webhooks.jsonl"))
Line = dict[str, Any]


@pytest.fixture
def enforced() -> Any:
    with override_settings(WHATSAPP_WEBHOOK_ENFORCE_SIGNATURE=True):
        yield


# --- Show 2 -------------------------------------------------------------------------------------------------------
# Keys, types and their order, kind by kind: tests/whatsapp/simulator/test_wire.py.


def test_broker_02_our_door_accepts_every_kind_with_its_headers_and_signature(
    committed_world: World, enforced: None
) -> None:
    with door_running() as door, broker_running(webhook_url=door.url) as broker:
        speak(broker)
        for _, request in KINDS.values():
            broker.control("ipe-01/inbound", {"from": "5511988887777", "pushName": "Maria", **request})
        broker.settle(lambda: broker.control("state", method="GET")["webhooks"]["pending"] == 0)
    assert door.statuses() == {202, 204}
    recorded = RECORDED[0]["headers"]
    for headers, _, _ in door.passed:
        assert recorded.keys() <= headers.keys()
        assert {name: headers[name] for name in ("content-type", "user-agent", "x-api-key")} == {
            name: recorded[name] for name in ("content-type", "user-agent", "x-api-key")
        }
    told = {json.loads(body)["event"] for _, body, _ in door.passed}
    assert told == {json.loads(line["body"])["event"] for line in RECORDED}


def test_broker_02_a_wrong_secret_or_key_is_refused(committed_world: World) -> None:
    with door_running() as door, broker_running(webhook_url=door.url) as broker:
        for fault, code in (({"hmacSecret": "another"}, "INVALID_SIGNATURE"), ({"apiKey": "wrong"}, "UNAUTHORIZED")):
            broker.behave(webhook={**fault, "retryScale": 0})
            broker.control("ipe-01/inbound", {"from": "5511988887777", "text": "oi"})
            broker.settle(lambda: broker.control("state", method="GET")["webhooks"]["pending"] == 0)
            assert {(answer.status, answer.code) for *_, answer in door.passed} == {(401, code)}
            assert len(door.passed) == 12, "six attempts each of the event and its raw twin"
            door.passed.clear()
            broker.behave()


# --- Show 16 ------------------------------------------------------------------------------------------------------


def shuffled(lines: Sequence[Line]) -> list[Line]:
    return random.Random(3).sample(lines, len(lines))


def put(lines: Sequence[Line], each: Callable[[], Any] = lambda: None) -> None:
    for line in lines:
        assert post(line["body"].encode(), line["headers"]).status in {202, 204}
        each()


def put_at_once(lines: Sequence[Line]) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda line: put([line]), lines))


@pytest.mark.parametrize(
    "way",
    [
        put,
        lambda lines: put(shuffled(lines)),
        lambda lines: put([*lines, *lines]),
        lambda lines: put(lines[::-1]),
        lambda lines: put(lines[::-1], each=drain_inbox),
        put_at_once,
        lambda lines: put_at_once([*lines, *shuffled(lines)]),
    ],
    ids=["in order", "shuffled", "twice", "backwards", "backwards one by one", "at once", "twice at once"],
)
def test_broker_16_the_corpus_leaves_its_totals(
    committed_world: World, enforced: None, way: Callable[[Sequence[Line]], None]
) -> None:
    with service_scope("test"), saving():
        WhatsAppSession.objects.filter(pk=committed_world.line.pk).update(broker_instance_id="loja1")
    way(RECORDED)
    drain_inbox()
    with tenant_scope(committed_world.ipe.pk):
        counts = (Contact.objects.count(), Ticket.objects.count(), Lead.objects.count(), Message.objects.count())
        names = set(Contact.objects.filter(kind="PERSON").values_list("name", flat=True))
        rows = {row.external_id: row for row in Message.objects.all()}
        reactions = list(MessageReaction.objects.values_list("message__external_id", "emoji"))
    assert counts == (3, 3, 2, 12)
    assert names == {"Maria", "João"}
    assert sum(row.direction == "INBOUND" for row in rows.values()) == 10
    assert rows["T1"].revoked_at is not None
    assert reactions == [("T1", "👍")]
    assert rows["EPH1"].content == "temporaria"
    assert (rows["OWN1"].source, rows["OWN1"].content) == ("PHONE", "do celular")
    sent = rows["3EB0DD775B77B7D2FCDDFC"]
    assert (sent.direction, sent.status, sent.content) == ("OUTBOUND", "SENT", "Olá Maria")
    assert rows["QUO1"].reply_to_id == rows["T1"].pk
    assert rows["3EB094B1B14DDBA9A13E0E"].content == "Sim"
    assert not {"STATUS1", "REA1", "DEL1"} & rows.keys()


def test_broker_16_the_media_addresses_of_the_corpus_are_never_ours_to_ask(committed_world: World) -> None:
    with service_scope("test"), saving():
        WhatsAppSession.objects.filter(pk=committed_world.line.pk).update(broker_instance_id="loja1")
    put(RECORDED)
    drain_inbox()
    with tenant_scope(committed_world.ipe.pk):
        files = list(Message.objects.filter(media__isnull=False).values_list("external_id", "media__state"))
    assert sorted(files) == [("AUD1", "pending"), ("IMG1", "pending")], "their messages are complete without them"


# --- Show 18 ------------------------------------------------------------------------------------------------------


def test_broker_18_two_runs_with_one_seed_give_the_same_bodies(django_db_setup: None) -> None:
    runs = []
    for seed in (42, 42, 43):
        with broker_running(seed=seed) as broker:
            broker.behave(autoAck=[])
            speak(broker)
            runs.append(sorted(timeless(raw) for raw in broker.hook.bodies))
    assert runs[0] == runs[1]
    assert len(runs[0]) > 50
    assert runs[0] != runs[2]


def test_broker_18_a_burst_is_stored_once(committed_world: World, enforced: None) -> None:
    """300 messages at once, each told twice by the broker; the running product: tests/e2e/test_burst.py."""
    with door_running() as door, broker_running(webhook_url=door.url) as broker:
        for number in range(300):
            broker.control("ipe-01/inbound", {"from": f"55119{80_000_000 + number}", "text": f"oi {number}"})
        broker.settle(lambda: broker.control("state", method="GET")["webhooks"]["delivered"] == 600, 60)
        assert broker.control("state", method="GET")["webhooks"].get("retried", 0) == 0
    assert door.statuses() == {202}
    drain_inbox()
    with tenant_scope(committed_world.ipe.pk):
        assert (Message.objects.count(), Contact.objects.count()) == (300, 300)
        assert WebhookEvent.objects.filter(status="PROCESSED").count() == 600
