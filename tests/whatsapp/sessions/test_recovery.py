"""Bringing connections back after a start: once, in parallel, and no longer than it may take."""

from __future__ import annotations

import time
from typing import Any

import pytest
from django.utils import timezone

from leadengine.accounts.scopes import service_scope
from leadengine.redis import client
from tests.conftest import World
from tests.outbound import Broker, at_once, events_of, until
from tests.whatsapp.sessions.conftest import asker, fresh, make, sync
from tests.whatsapp.sessions.steps import becomes, close, connected, creations, history, scan, starts
from whatsapp.models import Duty, RecoveryRun
from whatsapp.services.sessions import recovery
from whatsapp.services.sessions.recovery import Recovered, recover_sessions
from whatsapp.services.sessions.wishes import disconnect_session

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, settings: Any) -> None:
    monkeypatch.setattr(recovery, "_PAUSES", (0.1, 0.2, 0.4))
    settings.WHATSAPP_RECOVERY_DEADLINE_SECONDS = 2


def runs() -> list[RecoveryRun]:
    with service_scope("test"):
        return list(RecoveryRun.objects.order_by("started_at"))


def test_session_p11_several_processes_start_and_one_recovers(house: World, broker: Broker) -> None:
    sessions = [connected(broker, owner, "Loja") for owner in (house.admin, house.agent)]
    done = at_once(*[lambda: recover_sessions(trigger="start")] * 6)
    assert not [one for one in done if isinstance(one, Exception)]
    ran = [one for one in done if one is not None]
    assert len(ran) == 1
    assert (ran[0].expected, ran[0].reconnected, ran[0].lost) == (2, 2, 0)
    assert recover_sessions(trigger="start") is None, "at most once a minute"
    (run,) = runs()
    assert (run.trigger, run.expected, run.reconnected, run.lost) == ("start", 2, 2, 0)
    assert recover_sessions(trigger="command", force=True) is not None
    assert all(fresh(session).connected for session in sessions)


def test_after_a_minute_it_is_done_again_and_a_killed_one_does_not_block(house: World, broker: Broker) -> None:
    connected(broker, house.admin)
    assert recover_sessions(trigger="start") is not None
    minute_ago = timezone.now() - recovery.ONCE_IN
    Duty.objects.filter(name="recovery").update(done_at=minute_ago, holder=house.admin.pk, until=minute_ago)
    assert recover_sessions(trigger="start") is not None


def test_what_is_down_is_started_and_told_how_long_it_took(house: World, broker: Broker) -> None:
    up, down = connected(broker, house.admin), connected(broker, house.agent)
    close(broker, down, 428)
    sync()
    assert fresh(down).status == "connecting"
    broker.behave(down.broker_instance_id or "")  # the phone can be reached again; the broker tries after a second
    before = starts(broker)
    done = recover_sessions(trigger="start")
    assert done is not None
    assert (done.expected, done.reconnected, done.lost) == (2, 2, 0)
    assert done.slowest_seconds is not None
    assert 0 < done.slowest_seconds < 3
    assert starts(broker) > before
    assert (fresh(up).status, fresh(down).status) == ("connected", "connected")
    assert runs()[-1].slowest_seconds == done.slowest_seconds


def test_what_does_not_come_back_in_time_is_lost_until_it_returns(house: World, broker: Broker) -> None:
    down, elsewhere = connected(broker, house.admin), connected(broker, house.outsider)
    close(broker, down, 428)
    began = time.monotonic()
    done = recover_sessions(trigger="start")
    assert done is not None
    assert (done.expected, done.reconnected, done.lost) == (2, 1, 1)
    assert time.monotonic() - began < 5
    by_tenant = {run.tenant_id: (run.expected, run.lost) for run in runs()}
    assert by_tenant == {down.tenant_id: (1, 1), elsewhere.tenant_id: (1, 0)}
    broker.behave(down.broker_instance_id or "")
    scan(broker, down)
    becomes(down, "connected")


def test_what_needs_a_scan_shows_its_code(house: World, broker: Broker) -> None:
    session = connected(broker, house.admin)
    broker.control(f"{session.broker_instance_id}/qr")  # unpaired while nobody looked
    client().flushdb()
    with events_of(house) as told:
        done = recover_sessions(trigger="start")
        until(lambda: any(data["status"] == "qrcode" for _, data in told()))
    assert done is not None
    assert (done.expected, done.lost) == (1, 1)
    row = fresh(session)
    assert (row.status, row.reauth_reason, row.desired_state) == ("qrcode", "session_expired", "connected")
    assert row.qr_code


def test_only_what_was_connected_is_expected(house: World, broker: Broker) -> None:
    waiting = make(house.admin, "Espera")
    becomes(waiting, "qrcode")
    ended = connected(broker, house.agent)
    disconnect_session(session=ended, asker=asker(house.agent), now=timezone.now())
    assert recover_sessions(trigger="start") == Recovered(0, 0, 0, None)
    assert runs() == []
    assert fresh(ended).status == "disconnected"


def test_without_auto_reconnect_it_looks_and_starts_nothing(house: World, broker: Broker, settings: Any) -> None:
    session = connected(broker, house.admin)
    settings.WHATSAPP_AUTO_RECONNECT = False
    close(broker, session, 428)
    before = starts(broker)
    done = recover_sessions(trigger="start")
    assert done is not None
    assert done.lost == 1
    assert (starts(broker), fresh(session).status) == (before, "connecting")


def test_without_the_broker_nothing_changes(house: World, broker: Broker, settings: Any) -> None:
    session = connected(broker, house.admin)
    lines = history(session)
    settings.WHATSAPP_BROKER_URL = "http://127.0.0.1:9"
    done = recover_sessions(trigger="start")
    assert done is not None
    assert (done.expected, done.lost) == (1, 1)
    assert fresh(session).connected
    assert history(session) == lines


def test_what_the_broker_has_lost_is_left_to_the_sync(house: World, broker: Broker) -> None:
    session = connected(broker, house.admin)
    broker.control("reset")
    done = recover_sessions(trigger="start")
    assert done is not None
    assert done.lost == 1
    becomes(session, "qrcode")
    assert creations(broker) == 1
