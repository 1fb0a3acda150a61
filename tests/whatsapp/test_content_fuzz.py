"""Content fuzz through the real door and drain (spec/inbound.md 17.5): whatever a body holds, nothing breaks."""

from __future__ import annotations

import json
import zlib
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from leadengine.accounts.scopes import service_scope, tenant_scope
from tests.conftest import World
from tests.whatsapp.door import KEY, call
from tests.whatsapp.inbound import text_event
from tests.whatsapp.test_normalizers_fuzz import BODIES, changed_bodies, paths_of
from tickets.models import Message
from whatsapp.models import WebhookEvent, WebhookItem, WhatsAppSession
from whatsapp.normalizers import split_body
from whatsapp.services.drain import drain_inbox
from whatsapp.services.persistence import saving

pytestmark = pytest.mark.django_db(transaction=True)
EXAMPLES = 120  # each is a request and a drain: some 25 ms
BATCHED = 60


@pytest.fixture
def lines(committed_world: World) -> World:
    """The instances of the recorded bodies and of the vectors have a session here."""
    with service_scope("test"), saving():
        known = {(str(s.connection_id), s.broker_instance_id) for s in WhatsAppSession.objects.all()}
        names = {name for body in BODIES for entry in split_body(body) if (name := _instance(entry))}
        for name in sorted(names - {word for pair in known for word in pair}):
            WhatsAppSession.objects.create(
                tenant=committed_world.ipe, owner=committed_world.admin, session_name=f"S {name}", connection_id=name,
                status="connected",
            )  # fmt: skip
    return committed_world


def _instance(entry: Any) -> str:
    value = entry.get("instanceId") if isinstance(entry, dict) else None
    return value.strip() if isinstance(value, str) else ""


def check(raw: bytes, entries: int) -> None:
    """Post, drain, and look at what the ledger says of the new events."""
    with service_scope("test"):
        last = WebhookEvent.objects.order_by("-pk").values_list("pk", flat=True).first()
    answer = call("POST", raw, KEY)
    assert answer.status in (202, 204), answer.body
    drain_inbox()
    with service_scope("test"):
        events = WebhookEvent.objects.all() if last is None else WebhookEvent.objects.filter(pk__gt=last)
        assert events.count() == entries, "one event row per entry"
        for event in events:
            items = list(WebhookItem.objects.filter(event=event).order_by("index"))
            assert [item.index for item in items] == list(range(len(items)))
            assert all(item.fate and item.reason for item in items), "one fate per item"
            assert not [item.error for item in items if item.reason == "processing_error"]
            assert event.status in ("PROCESSED", "ORPHAN"), (event.status, event.error)
            if event.status == "PROCESSED" and event.session_id:
                assert sum(item.kind != "ignored" for item in items) == event.queued
            else:
                assert event.reason and not items


@given(body=changed_bodies())
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_inbound_05_changed_bodies_are_taken_and_each_item_has_one_fate(lines: World, body: Any) -> None:
    if not isinstance(body, dict | list):
        body = [body]
    check(json.dumps(body).replace("Infinity", "1e999").encode(), len(split_body(body)))


def test_inbound_05_every_key_of_every_known_body_removed(lines: World) -> None:
    """Some hundred bodies in batches: a batch has one request and one drain for many entries."""
    changed: list[Any] = []
    for body in BODIES:
        for path in paths_of(body)[1:]:
            copy = json.loads(json.dumps(body))
            node: Any = copy
            for key in path[:-1]:
                node = node[key]
            del node[path[-1]]
            changed += split_body(copy)
    for start in range(0, len(changed), BATCHED):
        part = changed[start : start + BATCHED]
        check(json.dumps(part).encode(), len(split_body(part)))


def test_inbound_05_a_batch_for_two_tenants_shows_each_only_its_own(lines: World) -> None:
    batch = [text_event("deles", instance="cedro-01"), text_event("nosso"), {"event": "?"}, 7, text_event(instance="x")]
    answer = call("POST", json.dumps({"events": batch}).encode(), KEY)
    assert (answer.status, answer.json["queued"]) == (202, 2)
    drain_inbox()
    for tenant, word, other in ((lines.ipe, "nosso", "deles"), (lines.cedro, "deles", "nosso")):
        with tenant_scope(tenant.pk):
            [event] = WebhookEvent.objects.all()
            assert word.encode() in _body(event) and other.encode() not in _body(event)
            assert [message.content for message in Message.objects.all()] == [word]
            assert WebhookItem.objects.count() == 1
    with service_scope("test"):
        assert WebhookEvent.objects.filter(tenant=None).count() == 3
        assert set(WebhookEvent.objects.values_list("entries", flat=True)) == {5}


def _body(event: WebhookEvent) -> bytes:
    return zlib.decompress(bytes(event.body or b""))
