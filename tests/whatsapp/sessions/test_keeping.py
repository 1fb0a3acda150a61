"""Once a day: connections without traffic are flagged, those deleted long ago lose what is personal."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from leadengine.redis import client
from tests.conftest import World
from tests.outbound import Broker, events_of
from tests.whatsapp.sessions.conftest import asker, fresh, sync
from tests.whatsapp.sessions.steps import connected, set_columns
from whatsapp.services.sessions.acting import carry_out
from whatsapp.services.sessions.keeping import flag_idle_sessions, scrub_deleted_sessions
from whatsapp.services.sessions.wishes import delete_session

pytestmark = pytest.mark.django_db(transaction=True)


def test_fourteen_days_without_traffic_flag_it_and_it_stays_connected(house: World, broker: Broker) -> None:
    idle, busy = connected(broker, house.admin), connected(broker, house.agent)
    now = timezone.now()
    for session, days in ((idle, 14.1), (busy, 13.9)):
        set_columns(session.pk, connected_at=now - timedelta(days=60), last_activity_at=now - timedelta(days=days))
    client().flushdb()
    with events_of(house) as told:
        assert flag_idle_sessions(now=now) == 1
        ((_, data),) = told()
    assert (data["sessionId"], data["reauthReason"]) == (str(idle.pk), "idle_14d")
    assert (fresh(idle).status, fresh(idle).reauth_reason) == ("connected", "idle_14d")
    assert fresh(busy).reauth_reason is None
    assert flag_idle_sessions(now=now) == 0, "once"
    sync()
    assert fresh(idle).reauth_reason == "idle_14d"
    set_columns(idle.pk, last_activity_at=now)
    assert flag_idle_sessions(now=now) == 0
    assert fresh(idle).reauth_reason is None, "the flag goes with the next traffic"


def test_only_what_is_connected_is_flagged_and_no_other_reason_is_lost(house: World, broker: Broker) -> None:
    session = connected(broker, house.admin)
    set_columns(session.pk, connected_at=timezone.now() - timedelta(days=60), status="error")
    assert flag_idle_sessions(now=timezone.now()) == 0
    set_columns(session.pk, status="connected", reauth_reason="session_conflict")
    assert flag_idle_sessions(now=timezone.now()) == 0
    assert fresh(session).reauth_reason == "session_conflict"


def test_the_days_are_a_setting(house: World, broker: Broker, settings: Any) -> None:
    session = connected(broker, house.admin)
    set_columns(session.pk, connected_at=timezone.now() - timedelta(days=3))
    settings.WHATSAPP_IDLE_REAUTH_DAYS = 2
    assert flag_idle_sessions(now=timezone.now()) == 1


def test_after_the_grace_a_deleted_one_is_a_tombstone(house: World, broker: Broker, settings: Any) -> None:
    session = connected(broker, house.admin, "Loja", "5511912345678")
    delete_session(session=session, asker=asker(house.admin), now=timezone.now())
    carry_out(session=session, asker=asker(house.admin))
    now = timezone.now()
    assert scrub_deleted_sessions(now=now + timedelta(days=settings.SESSION_DELETE_GRACE_DAYS - 1)) == 0
    assert fresh(session).phone_number == "+5511912345678"
    later = now + timedelta(days=settings.SESSION_DELETE_GRACE_DAYS, seconds=1)
    assert scrub_deleted_sessions(now=later) == 1
    row = fresh(session)
    assert (row.phone_number, row.whatsapp_id, row.whatsapp_info, row.profile_name, row.profile_pic) == (None,) * 5
    assert (row.session_name, row.connection_id, row.deleted_at is not None) == (
        "Loja", session.connection_id, True,
    )  # fmt: skip
    assert scrub_deleted_sessions(now=later) == 0
