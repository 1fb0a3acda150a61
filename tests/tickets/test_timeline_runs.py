"""The commands and the nightly run over timelines: what they print, repair, tell and leave alone."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from io import StringIO
from typing import Any
from zoneinfo import ZoneInfo

import psycopg
import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.utils import timezone

from leadengine.accounts.models import AuditLog, Tenant
from leadengine.accounts.scopes import SERVICE, SET_SCOPE, service_scope, tenant_scope
from leadengine.operations.facts import timeline_drift
from tests.api import by_cookie
from tests.conftest import World
from tests.environment import url
from tests.outbound import events_of, until
from tests.samples import sample
from tests.tickets.desk import arrive, phone
from tickets.models import Message, Ticket, TimelineRun
from tickets.services import timeline_nights, timeline_runs
from tickets.services.state import lock_tickets
from tickets.services.timeline import find_drifts
from tickets.services.timeline_nights import night_of, reconcile_nightly

real = pytest.mark.django_db(transaction=True)
RECONCILED = "whatsapp.timeline.reconciled"
EMPTIED = """
    message_count = 0, inbound_count = 0, outbound_count = 0, unanswered_count = 0, waiting_since = NULL,
    first_inbound_at = NULL, last_inbound_at = NULL, first_outbound_at = NULL, last_outbound_at = NULL,
    last_direction = NULL, last_message_at = NULL, last_message_id = NULL, last_message_preview = '',
    first_response_seconds = NULL, last_position = 0, last_event_seq = 0"""


def run(name: str, *arguments: str) -> str:
    out = StringIO()
    call_command(name, *arguments, stdout=out)
    return out.getvalue()


def run_json(name: str, *arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run(name, *arguments, "--json"))
    return found


def damage(sql: str, *parameters: Any) -> None:
    with service_scope("test"), connection.cursor() as cursor:
        cursor.execute(f"UPDATE tickets_ticket SET {sql}", parameters)


def rows() -> list[dict[str, Any]]:
    with service_scope("test"):
        return list(Ticket.objects.order_by("tenant_id", "number").values())


def results(outcome: str) -> float:
    return sample("timeline_reconciled_total", result=outcome)


def ten_tickets(world: World) -> list[Ticket]:
    began = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=1)
    tickets = []
    for number in range(10):
        where: Any = {"phone": phone(number), "name": f"C{number}"}
        arrive(world, "Oi", "Bom dia", at=began + timedelta(minutes=number), **where)
        tickets.append(
            arrive(world, "Olá", at=began + timedelta(minutes=number, seconds=30), direction="OUTBOUND", **where)
        )
    return tickets


@real
def test_9_seeded_drift_is_printed_repaired_told_once_and_then_gone(committed_world: World) -> None:
    world = committed_world
    tickets = ten_tickets(world)
    foreign = arrive(world, "Fora", tenant=world.cedro)
    damage("unanswered_count = 7, waiting_since = now() WHERE id = %s", tickets[2].pk)
    damage("last_message_preview = 'outra', last_position = 1, version = 40 WHERE id = %s", tickets[5].pk)
    before = rows()

    text = run("reconcile_timelines", "--tenant", "ipe", "--dry-run")
    lines = [line for line in text.splitlines() if not line.startswith("  waitingSince")]
    assert lines == [
        f"ipe {tickets[2].protocol}", "  unansweredCount: 7 -> 0",
        f"ipe {tickets[5].protocol}", "  lastMessagePreview: outra -> Olá", "  lastPosition: 1 -> 3",
        "ipe: 10 tickets checked, 2 wrong",
    ]  # fmt: skip
    assert "  waitingSince: 20" in text
    assert " -> -\n" in text
    with pytest.raises(CommandError) as refused:
        run("reconcile_timelines", "--dry-run", "--fail-on-drift")
    assert refused.value.returncode == 2
    assert rows() == before
    with service_scope("test"):
        assert not TimelineRun.objects.exists()

    repaired, clean = results("repaired"), results("clean")
    with events_of(world) as events:
        answer = run_json("reconcile_timelines")
        told = events()
    assert [(one["tenant"], one["ticketsChecked"], one["ticketsChanged"]) for one in answer["tenants"]] == [
        ("cedro", 1, 0), ("ipe", 10, 2),
    ]  # fmt: skip
    ipe = answer["tenants"][1]
    assert {one["ticketId"]: sorted(one["changes"]) for one in ipe["tickets"]} == {
        str(tickets[2].pk): ["unansweredCount", "waitingSince"],
        str(tickets[5].pk): ["lastMessagePreview", "lastPosition"],
    }
    (event,) = [data for name, data in told if name == RECONCILED]
    assert (event["runId"], event["trigger"], event["ticketsChecked"], event["ticketsChanged"]) == (
        ipe["runId"], "manual", 10, 2,
    )  # fmt: skip
    assert event["fields"] == {"unansweredCount": 1, "waitingSince": 1, "lastMessagePreview": 1, "lastPosition": 1}
    assert event["sample"][1] == {
        "ticketId": str(tickets[5].pk), "changes": {"lastMessagePreview": ["…", "…"], "lastPosition": [1, 3]},
    }  # fmt: skip
    updated = {data["ticketId"]: data for name, data in told if name == "ticket.updated"}
    assert updated[str(tickets[2].pk)]["timeline"] == {"unansweredCount": 0, "waitingSince": None}
    assert (updated[str(tickets[5].pk)]["timeline"], updated[str(tickets[5].pk)]["version"]) == ({}, 41)
    assert (results("repaired") - repaired, results("clean") - clean) == (1, 1)
    with service_scope("test"), connection.cursor() as cursor:
        entry = AuditLog.objects.get(tenant=world.ipe, action="timeline.reconciled")
        assert (entry.actor, entry.object_id, entry.changes["ticketsChanged"]) == (None, ipe["runId"], 2)
        assert "outra" not in json.dumps(entry.changes)
        assert timeline_drift(cursor) == 2

    after = rows()
    with events_of(world) as events:
        again = run_json("reconcile_timelines", "--fail-on-drift")
        second = [data for name, data in events() if name == RECONCILED]
    assert [one["ticketsChanged"] for one in again["tenants"]] == [0, 0]
    assert [(one["ticketsChanged"], one["fields"], one["sample"]) for one in second] == [(0, {}, [])]
    assert rows() == after
    assert next(row for row in after if row["id"] == foreign.pk)["version"] == foreign.version
    with service_scope("test"), connection.cursor() as cursor:
        assert timeline_drift(cursor) == 0


@real
def test_messages_that_changed_by_hand_are_drift_of_their_tickets(committed_world: World) -> None:
    tickets = ten_tickets(committed_world)
    with service_scope("test"):
        Message.objects.filter(ticket=tickets[0], direction="OUTBOUND").update(status="FAILED")
        Message.objects.filter(ticket=tickets[1], position=1).update(sent_at=datetime(2020, 1, 1, tzinfo=UTC))
    answer = run_json("reconcile_timelines", "--tenant", "ipe")
    assert answer["tenants"][0]["ticketsChanged"] == 2
    first, second = rows()[:2] if rows()[0]["tenant_id"] == committed_world.ipe.pk else rows()[-10:-8]
    assert (first["outbound_count"], first["unanswered_count"], first["first_response_seconds"]) == (0, 2, None)
    assert (first["last_message_preview"], first["last_direction"]) == ("Bom dia", "INBOUND")
    assert second["first_inbound_at"] == datetime(2020, 1, 1, tzinfo=UTC)


@real
def test_emptied_tenant_is_rebuilt_with_its_sequences(committed_world: World) -> None:
    world = committed_world
    ten_tickets(world)
    arrive(world, "Fora", tenant=world.cedro)
    kept = ("updated_at", "version")
    before = [{name: value for name, value in row.items() if name not in kept} for row in rows()]
    damage(f"{EMPTIED} WHERE tenant_id = %s", world.ipe.pk)
    assert run("backfill_timelines", "--tenant", "ipe", "--dry-run") == "ipe: 10 tickets checked, 10 wrong\n"
    assert run("backfill_timelines", "--tenant", "ipe", "--batch", "3") == "ipe: 10 tickets checked, 10 repaired\n"
    assert [{name: value for name, value in row.items() if name not in kept} for row in rows()] == before
    assert run("backfill_timelines") == "cedro: 1 tickets checked, 0 repaired\nipe: 10 tickets checked, 0 repaired\n"
    arrive(world, "Voltei", phone=phone(3))  # its position is free again


@real
def test_since_chooses_what_changed_and_bad_words_are_refused(committed_world: World) -> None:
    tickets = ten_tickets(committed_world)
    damage("unanswered_count = 9")
    with psycopg.connect(url("leadengine_owner"), autocommit=True) as owner:
        owner.execute("ALTER TABLE tickets_ticket DISABLE TRIGGER tickets_ticket_touch")
        try:
            owner.execute(SET_SCOPE, ("none", "", "", "tenant"))
            damage("updated_at = now() - interval '3 days' WHERE id <> %s", tickets[4].pk)
        finally:
            owner.execute("ALTER TABLE tickets_ticket ENABLE TRIGGER tickets_ticket_touch")

    def changed(*arguments: str, name: str = "reconcile_timelines") -> int:
        answer = run_json(name, "--tenant", "ipe", "--dry-run", *arguments)
        return int(answer["tenants"][0]["ticketsChecked"])

    assert (changed(), changed("--since", "4d"), changed(name="backfill_timelines")) == (1, 10, 10)
    today = timezone.localdate()
    assert (changed("--since", str(today)), changed("--since", str(today - timedelta(days=5)))) == (1, 10)
    for arguments in (("--since", "gestern"), ("--tenant", "nobody")):
        with pytest.raises(CommandError) as refused:
            run("reconcile_timelines", *arguments)
        assert refused.value.returncode == 1


@contextmanager
def held(ticket: Ticket) -> Iterator[None]:
    """Somebody works on a ticket, in a transaction that stays open."""
    with psycopg.connect(url("leadengine_app")) as other:
        other.execute(SET_SCOPE, SERVICE.parameters())
        other.execute("SELECT 1 FROM tickets_ticket WHERE id = %s FOR UPDATE", [ticket.pk])
        yield
        other.rollback()


@real
def test_held_ticket_is_waited_for_alone(committed_world: World) -> None:
    tickets = ten_tickets(committed_world)
    damage("unanswered_count = 9 WHERE tenant_id = %s", committed_world.ipe.pk)
    answers: list[str] = []

    def work() -> None:
        answers.append(run("reconcile_timelines", "--tenant", "ipe"))
        connection.close()

    def repaired() -> int:
        return sum(row["unanswered_count"] == 0 for row in rows())

    worker = threading.Thread(target=work)
    with held(tickets[3]):
        worker.start()
        until(lambda: repaired() == 9)
        # Who waits holds nothing else: all others can be locked meanwhile.
        with tenant_scope(committed_world.ipe.pk):
            free = lock_tickets(tenant_id=committed_world.ipe.pk, ids=[one.pk for one in tickets], wait=False)
        assert free.keys() == {one.pk for one in tickets if one != tickets[3]}
    worker.join(20)
    assert answers[0].endswith("ipe: 10 tickets checked, 10 repaired\n")


@real
def test_failure_of_one_tenant_is_told_and_costs_only_that_one(
    committed_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    ten_tickets(committed_world)
    failed = results("failed")

    def broken(*, tenant_id: Any, ids: Any) -> Any:
        if tenant_id == committed_world.cedro.pk:
            raise RuntimeError("broken")
        return find_drifts(tenant_id=tenant_id, ids=ids)

    arrive(committed_world, "Fora", tenant=committed_world.cedro)
    monkeypatch.setattr(timeline_runs, "find_drifts", broken)
    with pytest.raises(CommandError, match="cedro") as refused:
        run("reconcile_timelines")
    assert refused.value.returncode == 1
    assert results("failed") - failed == 1
    with service_scope("test"):
        assert {run.tenant_id: bool(run.finished_at) for run in TimelineRun.objects.all()} == {
            committed_world.ipe.pk: True, committed_world.cedro.pk: False,
        }  # fmt: skip


# --- At night ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("at", "zone", "night"),
    [
        ("2026-03-02T06:29:59+00:00", "America/Sao_Paulo", None),
        ("2026-03-02T06:30:00+00:00", "America/Sao_Paulo", date(2026, 3, 2)),
        ("2026-03-02T08:29:59+00:00", "America/Sao_Paulo", date(2026, 3, 2)),
        ("2026-03-02T08:30:00+00:00", "America/Sao_Paulo", None),
        ("2026-03-01T18:30:00+00:00", "Asia/Tokyo", date(2026, 3, 2)),
        ("2026-03-29T01:30:00+00:00", "Europe/Lisbon", None),  # 02:30, an hour after it was half past midnight
        ("2026-03-29T02:30:00+00:00", "Europe/Lisbon", date(2026, 3, 29)),
    ],
)
def test_night_is_local(at: str, zone: str, night: date | None) -> None:
    assert night_of(now=datetime.fromisoformat(at), zone=ZoneInfo(zone)) == night


def test_night_over_midnight(settings: Any) -> None:
    settings.TIMELINE_RECONCILE_AT = datetime(2026, 1, 1, 23, 30, tzinfo=UTC).time()
    assert night_of(now=datetime(2026, 3, 3, 0, 45, tzinfo=UTC), zone=ZoneInfo("UTC")) == date(2026, 3, 2)


@real
def test_nightly_run_is_one_a_night_and_tenant_in_its_own_zone(committed_world: World) -> None:
    world = committed_world
    with service_scope("test"):
        Tenant.objects.filter(pk=world.cedro.pk).update(timezone="Asia/Tokyo")
    ten_tickets(world)
    damage("unanswered_count = 9 WHERE tenant_id = %s", world.ipe.pk)
    night = datetime.now(UTC).replace(hour=6, minute=31, second=0)
    with events_of(world) as events:
        assert reconcile_nightly(now=night - timedelta(hours=1)) == []
        first = reconcile_nightly(now=night)
        assert [(one.tenant_id, one.changed) for one in first] == [(world.ipe.pk, 10)]
        assert reconcile_nightly(now=night + timedelta(minutes=20)) == []
        told = [data for name, data in events() if name == RECONCILED]
    assert [(one["trigger"], one["ticketsChanged"]) for one in told] == [("nightly", 10)]
    assert [one.tenant_id for one in reconcile_nightly(now=night.replace(hour=18))] == [world.cedro.pk]
    next_night = reconcile_nightly(now=night + timedelta(days=1))
    assert [(one.tenant_id, one.changed) for one in next_night] == [(world.ipe.pk, 0)]


@real
def test_run_of_a_lost_worker_is_taken_over_and_told_once(committed_world: World) -> None:
    world = committed_world
    ten_tickets(world)
    night = datetime.now(UTC).replace(hour=6, minute=31, second=0, microsecond=7)
    lost = timeline_nights._claim(world.ipe.pk, night.date(), night)
    assert lost is not None
    early = reconcile_nightly(now=night + timedelta(minutes=5))
    assert [one.tenant_id for one in early] == [world.cedro.pk]  # ours may still live
    with events_of(world) as events:
        (taken,) = reconcile_nightly(now=night + timedelta(minutes=11))
        assert taken.run_id == lost.pk
        with pytest.raises(timeline_runs.RunLost):
            timeline_runs.reconcile_timelines(tenant_id=world.ipe.pk, run=lost)
        assert [name for name, _ in events() if name == RECONCILED] == [RECONCILED]
    with service_scope("test"):
        assert AuditLog.objects.filter(tenant=world.ipe, action="timeline.reconciled").count() == 1


# --- What people see -----------------------------------------------------------------------------------------------


def test_7_late_message_moves_only_the_beginning(world: World) -> None:
    now = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
    before = arrive(world, "Agora", at=now)
    after = arrive(world, "Antes", at=now - timedelta(minutes=30))
    for name in ("last_message_at", "last_message_id", "last_message_preview", "waiting_since", "last_inbound_at"):
        assert getattr(after, name) == getattr(before, name), name
    assert after.first_inbound_at == now - timedelta(minutes=30)
    assert (after.inbound_count, after.unanswered_count) == (2, 2)


def test_10_metadata_timeline_is_the_timeline_and_read_only(world: World) -> None:
    ticket = arrive(world, "Oi")
    client = by_cookie(world.supervisor)
    path = f"/api/tickets/{ticket.pk}"
    data = client.get(path).json()["data"]
    assert data["metadata"]["timeline"] == data["timeline"]
    assert data["timeline"]["inboundCount"] == 1
    for patch in ({"timeline": {"inboundCount": 9}}, {"timeline": None}, {"ok": 1, "timeline": {}}):
        answer = client.patch(path, {"metadata": patch}, content_type="application/json")
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "VALIDATION_ERROR")
    assert client.patch(path, {"metadata": {"mine": 1}}, content_type="application/json").status_code == 200
    damage('metadata = \'{"timeline": {"inboundCount": 9}}\' WHERE id = %s', ticket.pk)  # nor by any other way
    after = client.get(path).json()["data"]
    assert after["timeline"] == after["metadata"]["timeline"] == data["timeline"]
