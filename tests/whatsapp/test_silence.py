"""Lines that have gone silent, in simulated weeks (spec/inbound.md section 15, Show 22)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.db import connection
from django.utils import timezone

from leadengine.accounts.models import Tenant
from leadengine.accounts.scopes import service_scope, tenant_scope
from leadengine.operations import facts
from tests.api import by_cookie
from tests.conftest import World
from tests.outbound import events_of, until
from tests.whatsapp.inbound import receive, text_event
from whatsapp.models import InboundHour, WhatsAppSession
from whatsapp.serializers import instance_json
from whatsapp.services.lines import announce_late
from whatsapp.services.persistence import saving
from whatsapp.services.silence import watch_silence

pytestmark = pytest.mark.django_db(transaction=True)
HERE = ZoneInfo("America/Sao_Paulo")
WEDNESDAY = datetime(2026, 3, 25, 10, tzinfo=HERE)


def live(world: World, *, until: datetime, days: int, per_hour: int, opens: int = 9, closes: int = 18) -> None:
    """Days of office hours with so many messages in each, the last of them just before `until`."""
    first = (until - timedelta(days=days)).replace(hour=0)
    hours = [first + timedelta(hours=n) for n in range(24 * (days + 1))]
    busy = [hour for hour in hours if opens <= hour.hour < closes and hour < until]
    with service_scope("test"), saving():
        InboundHour.objects.bulk_create(
            InboundHour(tenant=world.ipe, session=world.line, hour=hour, received=per_hour) for hour in busy
        )
        WhatsAppSession.objects.filter(pk=world.line.pk).update(last_inbound_at=until)


def line(world: World) -> WhatsAppSession:
    with service_scope("test"):
        found: WhatsAppSession = WhatsAppSession.objects.get(pk=world.line.pk)
        return found


def silent_at(world: World, at: datetime) -> bool:
    """Whether the alarm stands after a look at this time."""
    watch_silence(now=at)
    return line(world).silent_since is not None


def test_inbound_22_the_alarm_fires_in_a_simulated_week_and_the_next_message_clears_it(committed_world: World) -> None:
    live(committed_world, until=WEDNESDAY, days=20, per_hour=3)
    # 4.6 messages are to be expected in 92 minutes of such an office hour: exp(-4.6) is one in a hundred.
    assert not silent_at(committed_world, WEDNESDAY + timedelta(minutes=91))
    with events_of(committed_world) as events:
        assert silent_at(committed_world, WEDNESDAY + timedelta(minutes=93))
        assert silent_at(committed_world, WEDNESDAY + timedelta(minutes=94))  # and is told once
        told = [data for name, data in events() if name == "whatsapp.session.updated"]
    assert [(data["change"], data["evidence"]["silent"], data["version"]) for data in told] == [("evidence", True, 1)]
    assert line(committed_world).silent_since == WEDNESDAY
    assert instance_json(line(committed_world), full=True, now=timezone.now())["evidence"]["silent"] is True
    assert _gauge() == 1
    with events_of(committed_world) as events:
        receive(text_event("voltou"))
        # Within the second of the first news it is told at its end, else at once.
        until(lambda: announce_late(now=timezone.now()) or "whatsapp.session.updated" in dict(events()))
        told = [data for name, data in events() if name == "whatsapp.session.updated"]
    assert [(data["evidence"]["silent"], data["version"]) for data in told] == [(False, 2)]
    assert line(committed_world).silent_since is None
    assert _gauge() == 0


def test_nights_and_weekends_are_no_silence_and_mondays_are(committed_world: World) -> None:
    friday = datetime(2026, 3, 27, 17, 59, tzinfo=HERE)
    live(committed_world, until=friday, days=24, per_hour=6)
    with service_scope("test"):
        weekends = [row.pk for row in InboundHour.objects.all() if row.hour.astimezone(HERE).weekday() > 4]
        InboundHour.objects.filter(pk__in=weekends).delete()
    monday = datetime(2026, 3, 30, 9, tzinfo=HERE)
    assert not silent_at(committed_world, monday)  # 63 hours without a message, none of them unusual
    assert silent_at(committed_world, monday + timedelta(minutes=50))


def test_hours_are_those_of_the_tenants_clock(committed_world: World) -> None:
    live(committed_world, until=WEDNESDAY, days=20, per_hour=3)
    with service_scope("test"):
        Tenant.objects.filter(pk=committed_world.ipe.pk).update(timezone="Asia/Tokyo")
    # The same hours shifted by twelve make the same week: only names of hours differ.
    assert silent_at(committed_world, WEDNESDAY + timedelta(minutes=93))


@pytest.mark.parametrize(("days", "per_hour"), [(6, 20), (20, 0)])
def test_little_history_makes_no_alarm(committed_world: World, days: int, per_hour: int) -> None:
    live(committed_world, until=WEDNESDAY, days=days, per_hour=per_hour)
    if not per_hour:
        with service_scope("test"):
            InboundHour.objects.filter(hour=WEDNESDAY - timedelta(days=8)).update(received=49)
    assert not silent_at(committed_world, WEDNESDAY + timedelta(days=2))


@pytest.mark.parametrize("how", ["lost", "removed", "came back"])
def test_only_a_line_that_stays_connected_is_silent(committed_world: World, how: str) -> None:
    live(committed_world, until=WEDNESDAY, days=20, per_hour=3)
    at = WEDNESDAY + timedelta(hours=3)
    assert silent_at(committed_world, at)
    changes: dict[str, dict[str, Any]] = {
        "lost": {"status": "disconnected"},
        "removed": {"deleted_at": at},
        "came back": {"connected_at": at},  # what was missed by the lost link comes now, or the count begins anew
    }
    with service_scope("test"), saving():
        WhatsAppSession.objects.filter(pk=committed_world.line.pk).update(**changes[how])
    assert not silent_at(committed_world, at + timedelta(minutes=1))


def test_the_drain_counts_each_message_once_by_the_hour_it_came(committed_world: World) -> None:
    event = text_event("um")
    receive(event, text_event("dois"))
    receive(event, text_event("tres"))
    with tenant_scope(committed_world.ipe.pk):
        rows = list(InboundHour.objects.values_list("session_id", "hour", "received"))
    now = datetime.now(UTC)
    assert sum(row[2] for row in rows) == 3
    assert {row[0] for row in rows} == {committed_world.line.pk}
    assert all(now - row[1] < timedelta(hours=1, minutes=1) and row[1].minute == 0 for row in rows)


def test_hours_older_than_four_weeks_are_forgotten(committed_world: World) -> None:
    live(committed_world, until=WEDNESDAY, days=40, per_hour=1)
    watch_silence(now=WEDNESDAY)
    with service_scope("test"):
        oldest = InboundHour.objects.order_by("hour").values_list("hour", flat=True)[0]
    assert oldest >= WEDNESDAY - timedelta(weeks=4)


def test_the_banner_is_for_supervisors(committed_world: World) -> None:
    live(committed_world, until=WEDNESDAY, days=20, per_hour=3)
    sofia, ana = by_cookie(committed_world.supervisor), by_cookie(committed_world.agent)
    address = "/inbox/silent-lines/"
    assert "data-line" not in sofia.get(address).content.decode()
    assert silent_at(committed_world, WEDNESDAY + timedelta(hours=3))
    assert f'data-line="{committed_world.line.pk}"' in sofia.get(address).content.decode()
    assert "Loja" in sofia.get(address).content.decode()
    assert ana.get(address).status_code == 404
    assert "data-line" not in by_cookie(committed_world.outsider).get(address).content.decode()
    assert address in sofia.get("/inbox/").content.decode()
    assert address not in ana.get("/inbox/").content.decode()


def _gauge() -> int:
    with service_scope("test"), connection.cursor() as cursor:
        return facts.silent_sessions(cursor)
