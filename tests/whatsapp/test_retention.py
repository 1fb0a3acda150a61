"""How long bodies and ledger lines are kept (spec/inbound.md section 15, 17.22)."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from django.core.management import call_command
from django.utils import timezone

from leadengine.accounts.scopes import service_scope
from leadengine.celery import MAINTENANCE, app
from tests.conftest import World
from tests.whatsapp.inbound import receive, store, text_event
from tickets.models import Message
from whatsapp.models import WebhookEvent, WebhookItem
from whatsapp.services import retention
from whatsapp.services.retention import erase_old_webhooks
from whatsapp.tasks import erase_old_webhooks as task

pytestmark = pytest.mark.django_db(transaction=True)


def aged(days: float, status: str = "PROCESSED", fate: str = "stored") -> UUID:
    """An event that came so many days ago, with one item; ids are made when an event comes."""
    at = timezone.now() - timedelta(days=days)
    with service_scope("test"):
        known = set(WebhookEvent.objects.values_list("pk", flat=True))
    receive(text_event(f"de {days} dias"))
    with service_scope("test"):
        event = WebhookEvent.objects.exclude(pk__in=known).get()
        item = event.items.get()
        item.delete()
        WebhookEvent.objects.filter(pk=event.pk).delete()
        event.pk = UUID(int=(int(at.timestamp() * 1000) << 80) | (event.pk.int & (1 << 80) - 1))
        event.status, event.received_at = status, at
        event.original_body = event.body
        if status in ("ORPHAN", "REJECTED"):
            event.tenant = event.session = None
        event.save(force_insert=True)
        if status not in ("ORPHAN", "REJECTED"):
            item.event, item.fate = event, fate
            item.save(force_insert=True)
    return UUID(str(event.pk))


def bodies() -> dict[UUID, bool]:
    """{event: whether its body is still there}; both bodies go together."""
    with service_scope("test"):
        rows = WebhookEvent.objects.values_list("pk", "body", "original_body")
        assert all((body is None) == (first is None) for _, body, first in rows)
        return {pk: body is not None for pk, body, _ in rows}


def test_inbound_22_bodies_past_their_time_are_gone_and_their_lines_stay(committed_world: World) -> None:
    gone = [aged(31), aged(31, "REJECTED"), aged(91, "FAILED", "failed"), aged(91, "ORPHAN"), aged(399)]
    kept = [
        aged(29), aged(31, "FAILED", "failed"), aged(89, "ORPHAN"), aged(40, fate="parked"), aged(200, fate="pending"),
        aged(95, "PENDING"),  # the last, or the drain would take it
    ]  # fmt: skip
    with service_scope("test"):
        messages, items = Message.objects.count(), WebhookItem.objects.count()
    erased = erase_old_webhooks(now=timezone.now())
    assert (erased.bodies, erased.lines) == (len(gone), 0)
    assert bodies() == {**dict.fromkeys(gone, False), **dict.fromkeys(kept, True)}
    with service_scope("test"):
        assert (Message.objects.count(), WebhookItem.objects.count()) == (messages, items)
    assert erase_old_webhooks(now=timezone.now()).bodies == 0


def test_ledger_lines_go_after_400_days_with_their_items(committed_world: World) -> None:
    old, waiting, young = aged(401), aged(401, fate="pending"), aged(399)
    assert erase_old_webhooks(now=timezone.now()).lines == 1
    assert set(bodies()) == {waiting, young}
    with service_scope("test"):
        assert not WebhookItem.objects.filter(event_id=old).exists()
        assert Message.objects.count() == 3


def test_it_works_batch_by_batch_in_transactions_of_their_own(
    committed_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(5):
        aged(31)
    monkeypatch.setattr(retention, "BATCH", 2)
    steps: list[int] = []

    def stop(done: int) -> None:
        steps.append(done)
        if len(steps) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        erase_old_webhooks(now=timezone.now(), step=stop)
    assert sorted(bodies().values()) == [False] * 4 + [True], "what was done before the stop stays done"
    assert erase_old_webhooks(now=timezone.now()).bodies == 1


def test_the_setting_and_the_dry_run(committed_world: World, settings: Any, capsys: pytest.CaptureFixture[str]) -> None:
    settings.WHATSAPP_WEBHOOK_RAW_RETENTION_DAYS = 7
    old = aged(8)
    call_command("erase_old_webhooks", "--dry-run", "--json")
    assert json.loads(capsys.readouterr().out) == {"bodies": 1, "lines": 0, "dryRun": True}
    assert bodies() == {old: True}
    call_command("erase_old_webhooks", "--json")
    assert json.loads(capsys.readouterr().out) == {"bodies": 1, "lines": 0, "dryRun": False}
    assert bodies() == {old: False}


def test_every_night(committed_world: World) -> None:
    entry = app.conf.beat_schedule["erase-old-webhooks"]
    assert (entry["task"], app.conf.task_routes[entry["task"]]) == (task.name, MAINTENANCE)
    assert (entry["schedule"].hour, entry["schedule"].minute) == ({6}, {17})
    old = aged(31)
    task()
    assert bodies() == {old: False}


def test_a_body_that_is_gone_stops_nothing(committed_world: World) -> None:
    aged(31)
    erase_old_webhooks(now=timezone.now())
    store(text_event("depois"))
    receive(text_event("e mais"))
    with service_scope("test"):
        assert Message.objects.count() == 3
