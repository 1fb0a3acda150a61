"""The log is kept for 30 days, and no longer."""

from __future__ import annotations

from datetime import timedelta

from django.utils import timezone

from leadengine.accounts.scopes import service_scope, user_scope
from leadengine.webhooks.models import Attempt, Delivery, Endpoint, OutgoingEvent
from leadengine.webhooks.services.delivering import deliver_due
from leadengine.webhooks.services.endpoints import BOTH_SIGN, delete_endpoint, rotate_secret
from leadengine.webhooks.services.retention import KEPT, erase_old_deliveries
from leadengine.webhooks.tasks import erase_old_deliveries as task
from tests.conftest import World
from tests.tickets.desk import arrive
from tests.webhooks.receiver import Receiver, connect, now_of


def counts() -> tuple[int, ...]:
    with service_scope("test"):
        return tuple(model.objects.count() for model in (Endpoint, OutgoingEvent, Delivery, Attempt))


def test_events_go_with_deliveries_and_tries_and_then_what_was_deleted(
    committed_world: World, receiver: Receiver
) -> None:
    world = committed_world
    gone, _ = connect(world.admin, receiver.url, "messages.new")
    connect(world.admin, receiver.url, "messages.new")
    arrive(world, "um", "dois")
    assert deliver_due() == 4
    now = timezone.now()
    with user_scope(world.admin):
        delete_endpoint(actor=world.admin, endpoint=gone, now=now)
    assert counts() == (2, 2, 4, 4)
    assert erase_old_deliveries(now=now + KEPT - timedelta(minutes=1)) == 0
    assert task() == 0
    assert counts() == (2, 2, 4, 4)
    assert erase_old_deliveries(now=now + KEPT + timedelta(minutes=5)) == 2
    assert counts() == (1, 0, 0, 0)


def test_a_secret_that_signs_no_more_is_not_kept(committed_world: World, receiver: Receiver) -> None:
    world, now = committed_world, timezone.now()
    endpoint, _ = connect(world.admin, receiver.url)
    with user_scope(world.admin):
        rotate_secret(actor=world.admin, endpoint=endpoint, now=now)
    for at, kept in ((now + BOTH_SIGN - timedelta(minutes=1), True), (now + BOTH_SIGN + timedelta(minutes=1), False)):
        erase_old_deliveries(now=at)
        row = now_of(endpoint)
        assert (bool(row.previous_secret), row.previous_until is not None) == (kept, kept)
        assert row.secret
