"""Wish and broker brought together: codes, drift in both directions, lost and late answers, doubles, strikes."""

from __future__ import annotations

import json
import threading
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from leadengine.accounts.scopes import service_scope, tenant_scope
from leadengine.celery import SENDING
from leadengine.redis import client
from tests.api import by_key, send
from tests.conftest import World
from tests.outbound import Broker, events_of, until
from tests.whatsapp.sessions.conftest import asker, fresh, make, sync
from tests.whatsapp.sessions.proxy import proxied
from tests.whatsapp.sessions.steps import (
    at_broker,
    becomes,
    close,
    connected,
    creations,
    due,
    history,
    scan,
    set_columns,
    starts,
)
from whatsapp import broker as calls
from whatsapp import tasks
from whatsapp.models import SessionEvent, WhatsAppSession
from whatsapp.services.lines import evidence_of, find_line
from whatsapp.services.sessions.acting import carry_out
from whatsapp.services.sessions.changing import Origin
from whatsapp.services.sessions.listening import listen
from whatsapp.services.sessions.looking import wire_name
from whatsapp.services.sessions.qr import read_qr, refresh_qr
from whatsapp.services.sessions.syncing import sync_session, sync_sessions
from whatsapp.services.sessions.wishes import connect_session, disconnect_session

pytestmark = pytest.mark.django_db(transaction=True)


def row_of(session: WhatsAppSession) -> Any:
    """The row as it is now; a column that is not set fails the test that reads it."""
    return fresh(session)


# --- The codes of section 8 ------------------------------------------------------------------------------------------

# code: (status after the next look, reauth_reason, code of lastError, is it tried again)
CODES: dict[int, tuple[str, str | None, str, bool]] = {
    408: ("connecting", None, "LINK_LOST", True),
    428: ("connecting", None, "LINK_LOST", True),
    503: ("connecting", None, "LINK_LOST", True),
    515: ("connecting", None, "RESTART_REQUIRED", True),
    403: ("error", "suspicious_block", "REFUSED_BY_WHATSAPP", False),
    411: ("error", "client_update", "CLIENT_OUTDATED", False),
    440: ("error", "session_conflict", "REPLACED_BY_OTHER_CLIENT", False),
    500: ("logged_out", "session_expired", "BAD_SESSION", True),
}


@pytest.mark.parametrize("code", CODES)
def test_each_code_sets_status_reason_and_words_and_is_retried_or_not(house: World, broker: Broker, code: int) -> None:
    session = connected(broker, house.admin)
    close(broker, session, code)
    before = starts(broker)
    sync()
    status, reauth, error, retried = CODES[code]
    row = row_of(session)
    assert (row.status, row.reauth_reason) == (status, reauth)
    assert row.last_error is not None
    assert row.last_error["code"] == error
    assert row.last_error["message"] and row.last_error["action"] and row.last_error["at"]
    assert (row.disconnected_at is not None, row.desired_state) == (True, "connected")
    if not retried:
        assert row.next_attempt_at is None
        for _ in range(3):
            sync()
        assert starts(broker) == before
        connect_session(session=row, asker=asker(house.admin), now=timezone.now())  # until somebody asks
        carry_out(session=row, asker=asker(house.admin))
        assert starts(broker) > before
    elif status == "connecting":
        assert (row.reconnect_started_at is not None, row.next_attempt_at is not None) == (True, True)
        due(session.pk)
        sync()
        assert starts(broker) > before
        assert row_of(session).reconnect_attempts >= 1
    else:
        becomes(session, "qrcode")  # a new code, which nobody asked for
        until(lambda: [sync(), row_of(session).qr_code][1])


def test_a_drop_is_retried_in_5_s_and_515_at_once(house: World, broker: Broker) -> None:
    slow, quick = connected(broker, house.admin), connected(broker, house.agent)
    close(broker, slow, 428)
    close(broker, quick, 515)
    now = timezone.now()
    sync()
    wait = row_of(slow).next_attempt_at - now
    assert timedelta(seconds=4) <= wait <= timedelta(seconds=7)
    assert (row_of(slow).reconnect_attempts, row_of(quick).reconnect_attempts) == (0, 1)


def test_five_restarts_in_ten_minutes_count_as_an_old_client(house: World, broker: Broker) -> None:
    session = connected(broker, house.admin)
    for _ in range(4):
        close(broker, session, 515)
        sync()
        assert row_of(session).last_error["code"] == "RESTART_REQUIRED"
        broker.behave(session.broker_instance_id or "")
        scan(broker, session)
        becomes(session, "connected")
    close(broker, session, 515)
    sync()
    row = row_of(session)
    assert (row.status, row.reauth_reason) == ("error", "client_update")
    assert row.last_error["code"] == "CLIENT_OUTDATED"
    before = starts(broker)
    sync()
    assert starts(broker) == before


def test_restarts_of_long_ago_do_not_count(house: World, broker: Broker) -> None:
    session = connected(broker, house.admin)
    with service_scope("test"):
        for _ in range(6):
            SessionEvent.objects.create(
                tenant_id=session.tenant_id, session=session, old_status="connected", new_status="connecting",
                reason="RESTART_REQUIRED", source="sync", at=timezone.now() - timedelta(minutes=11),
            )  # fmt: skip
    close(broker, session, 515)
    sync()
    assert row_of(session).status == "connecting"


def test_after_three_failed_attempts_it_is_an_error_and_attempts_go_on(house: World, broker: Broker) -> None:
    session = connected(broker, house.admin)
    close(broker, session, 428)
    for _ in range(4):
        sync()
        assert row_of(session).status == "connecting"
        due(session.pk)
    sync()
    row: Any = becomes(session, "error")
    assert row.last_error["code"] == "WHATSAPP_UNREACHABLE"
    before, attempts = starts(broker), row.reconnect_attempts
    due(session.pk)
    sync()
    assert starts(broker) > before
    assert row_of(session).reconnect_attempts == attempts + 1
    broker.behave(session.broker_instance_id or "")
    scan(broker, session)
    row = becomes(session, "connected")
    assert (row.reconnect_attempts, row.last_error, row.reconnect_started_at, row.next_attempt_at) == (
        0, None, None, None,
    )  # fmt: skip


def test_a_code_that_nobody_scans_is_given_up_and_the_wish_withdrawn(house: World, broker: Broker) -> None:
    session = make(house.admin)
    becomes(session, "qrcode")
    broker.control(f"{session.broker_instance_id}/close", {"statusCode": 408})
    row: Any = becomes(session, "disconnected")
    assert (row.desired_state, row.qr_code, row.last_error["code"]) == ("disconnected", None, "QR_EXPIRED")


# --- Drift -----------------------------------------------------------------------------------------------------------


def test_session_p13_drift_is_healed_in_both_directions_by_the_next_sync(
    house: World, broker: Broker, settings: Any
) -> None:
    session = connected(broker, house.admin)
    before = row_of(session).last_synced_at
    close(broker, session, 428)
    sync()
    row = row_of(session)
    assert row.status == "connecting"
    assert row.last_synced_at > before
    broker.behave(session.broker_instance_id or "")
    scan(broker, session)
    sync()
    assert row_of(session).status == "connected"
    # The other direction: a wish that the broker did not hear.
    settings.WHATSAPP_BROKER_URL = "http://127.0.0.1:9"
    disconnect_session(session=row_of(session), asker=asker(house.admin), now=timezone.now())
    assert carry_out(session=session, asker=asker(house.admin)).pending
    settings.WHATSAPP_BROKER_URL = broker.url
    sync()
    found = at_broker(broker, session)
    assert found is not None
    assert not found["connected"]
    assert row_of(session).pending_wish is None
    assert settings.WHATSAPP_RECONNECT_INTERVAL <= 10


def test_session_p13_the_stream_heals_within_2_s(house: World, broker: Broker) -> None:
    session = connected(broker, house.admin)
    key, ended = f"wake:sync:{session.pk}", threading.Event()
    thread = threading.Thread(target=listen, kwargs={"until": ended.is_set})
    thread.start()
    try:
        until(lambda: client().exists(key))  # it tells how all are, at first
        for status in ("connecting", "connected"):
            client().flushdb()
            if status == "connecting":
                close(broker, session, 428)
            else:
                broker.behave(session.broker_instance_id or "")
                scan(broker, session)
            until(lambda: asked_for(session), 2)
            tasks.sync_session.run(str(session.pk))
            assert row_of(session).status == status
            with service_scope("test"):
                assert SessionEvent.objects.filter(session=session, new_status=status, source="sse").exists()
    finally:
        ended.set()
        scan(broker, session)  # one more line, so that it notices
        thread.join(15)
    assert not thread.is_alive()


def asked_for(session: WhatsAppSession) -> bool:
    """Whether a worker has been asked to look at it: the task is in its queue."""
    waiting = [json.loads(raw)["headers"] for raw in client().lrange(SENDING, 0, -1)]
    return any(
        task["task"] == "whatsapp.sync_session" and str(session.pk) in task["kwargsrepr"] for task in waiting
    )  # fmt: skip


def test_only_one_process_follows_the_stream(house: World, broker: Broker) -> None:
    connected(broker, house.admin)
    ended = threading.Event()

    def watching() -> int:
        return int(broker.control("state", method="GET")["requests"].get("GET /instances/events", 0))

    threads = [threading.Thread(target=listen, kwargs={"until": ended.is_set}) for _ in range(3)]
    for thread in threads:
        thread.start()
    until(lambda: watching() == 1)
    ended.set()
    broker.control("ipe-99/open")  # one more line, so that the reader notices
    for thread in threads:
        thread.join(15)
    assert watching() == 1


# --- The broker is away ----------------------------------------------------------------------------------------------


def test_session_n06_a_broker_that_is_away_for_60_s_changes_nothing(
    house: World, broker: Broker, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = connected(broker, house.admin)
    sync_sessions(now=timezone.now())
    before, lines = row_of(session), len(history(session))
    client().flushdb()
    monkeypatch.setattr(calls, "REPEATS", ())
    settings.WHATSAPP_BROKER_URL = "http://127.0.0.1:9"
    now = timezone.now()
    with events_of(house) as told:
        for seconds in range(0, 61, 5):
            sync_sessions(now=now + timedelta(seconds=seconds))
        assert told() == []
    row = row_of(session)
    assert (row.status, row.version, row.last_error) == ("connected", before.version, None)
    assert not evidence_of(row, now)["stale"]
    assert evidence_of(row, now + timedelta(seconds=60))["stale"]
    assert len(history(session)) == lines
    set_columns(session.pk, last_synced_at=now - timedelta(seconds=60))
    for path in ("", f"/{session.pk}", f"/{session.pk}/status"):
        status, body = send(by_key(house.admin), "get", f"/api/integrations/whatsapp/instances{path}")
        assert status == 200, path
        data = body["data"][0] if path == "" else body["data"]
        assert (data["status"], data.get("evidence", data)["stale"]) == ("connected", True)


def test_session_n09_an_answer_to_create_that_is_lost_makes_no_second_one(
    house: World, broker: Broker, settings: Any
) -> None:
    with proxied(broker) as proxy:
        settings.WHATSAPP_BROKER_URL = proxy.url
        proxy.lose = lambda method, path: (method, path) == ("POST", "/instances")
        synced, again = make(house.admin, "Vendas"), make(house.agent, "Suporte")
        for session in (synced, again):
            assert row_of(session).broker_confirmed_at is None
            assert at_broker(broker, session) is not None, "it is there, and we do not know"
        proxy.lose = lambda *_: False
        # A second request finds our own name taken: it is ours.
        carry_out(session=again, asker=asker(house.agent))
        assert row_of(again).broker_confirmed_at is not None
        assert creations(broker) == 3
        sync()
        becomes(synced, "qrcode")
    assert creations(broker) == 3, "found by the sync: nothing was created again"
    assert row_of(synced).broker_confirmed_at is not None
    assert len(broker.control("state", method="GET")["instances"]) == 2


def test_session_n15_a_late_answer_does_not_undo_a_disconnect(house: World, broker: Broker, settings: Any) -> None:
    session = connected(broker, house.admin)
    asked, answer = threading.Event(), threading.Event()

    def hold(method: str, path: str) -> None:
        if (method, path) == ("GET", f"/instances/{session.broker_instance_id}"):
            asked.set()
            assert answer.wait(10)

    with proxied(broker) as proxy:
        settings.WHATSAPP_BROKER_URL = proxy.url
        proxy.hold = hold
        poll = threading.Thread(target=poll_once)
        poll.start()
        assert asked.wait(10)
        disconnect_session(session=row_of(session), asker=asker(house.admin), now=timezone.now())
        assert not carry_out(session=session, asker=asker(house.admin)).pending, "nothing is pending that would hold it"
        answer.set()
        poll.join()
    row = row_of(session)
    assert (row.status, row.desired_state, row.pending_wish) == ("disconnected", "disconnected", None)
    assert history(session)[-1] == ("disconnected", "stop")


def poll_once() -> None:
    """A round of another process."""
    try:
        sync_sessions(now=timezone.now(), everything=True)
    finally:
        connection.close()


# --- QR codes --------------------------------------------------------------------------------------------------------


def test_session_p12_an_expired_code_is_never_served(house: World, broker: Broker, settings: Any) -> None:
    session = make(house.admin)
    until(lambda: [sync(), row_of(session).qr_code][1])
    settings.WHATSAPP_BROKER_URL = "http://127.0.0.1:9"
    shown = read_qr(session_id=session.pk, tenant_id=session.tenant_id)
    assert shown.available, "served from the database while it is valid"
    set_columns(session.pk, qr_expires_at=timezone.now() - timedelta(milliseconds=1))
    shown = read_qr(session_id=session.pk, tenant_id=session.tenant_id)
    assert (shown.available, shown.picture, shown.raw, shown.reason) == (False, None, None, "EXPIRED")
    refresh_qr(now=timezone.now())
    assert (row_of(session).qr_code, row_of(session).qr_raw) == (None, None)
    settings.WHATSAPP_BROKER_URL = broker.url
    assert read_qr(session_id=session.pk, tenant_id=session.tenant_id).available, "there is another at the broker"


def test_session_p12_a_viewed_code_is_renewed_unasked(house: World, broker: Broker) -> None:
    viewed, unseen = make(house.admin), make(house.agent)
    for session in (viewed, unseen):
        until(lambda s=session: [sync(), row_of(s).qr_code][1])  # type: ignore[misc]
    read_qr(session_id=viewed.pk, tenant_id=viewed.tenant_id)
    set_columns(unseen.pk, qr_viewed_at=None)
    before = {session.pk: row_of(session).qr_version for session in (viewed, unseen)}
    codes = {one.pk: broker.control(f"{one.broker_instance_id}/qr")["qr"] for one in (viewed, unseen)}
    assert refresh_qr(now=timezone.now()) == 1
    row = row_of(viewed)
    assert (row.qr_version, row.qr_raw) == (before[viewed.pk] + 1, codes[viewed.pk])
    assert row_of(unseen).qr_version == before[unseen.pk]
    assert refresh_qr(now=timezone.now() + timedelta(seconds=91)) == 0, "nobody looks any more"


# --- One phone, one connection ---------------------------------------------------------------------------------------


def test_the_same_phone_of_the_same_owner_replaces_the_older(house: World, broker: Broker) -> None:
    older = connected(broker, house.admin, "Loja", "5511911112222")
    newer = connected(broker, house.admin, "Loja nova", "5511911112222")
    row = row_of(older)
    assert (row.status, row.desired_state, row.duplicate_reason, row.replaced_by) == (
        "disconnected", "disconnected", "REPLACED_BY_NEW_CONNECTION", newer.pk,
    )  # fmt: skip
    assert history(older)[-1] == ("disconnected", "REPLACED_BY_NEW_CONNECTION")
    until(lambda: [sync(), row_of(older).pending_wish is None][1])
    found = at_broker(broker, older)
    assert found is not None
    assert not found["connected"], "logged out"
    assert row_of(newer).connected
    sync()
    assert row_of(newer).connected


def test_a_phone_of_another_owner_makes_the_newer_a_duplicate(house: World, broker: Broker) -> None:
    older = connected(broker, house.admin, "Loja", "5511911112222")
    newer = make(house.agent, "Ana")
    scan(broker, newer, "5511911112222")
    row = becomes(newer, "duplicate")
    assert (row.duplicate_reason, row.desired_state) == ("PHONE_NUMBER_ALREADY_CONNECTED", "disconnected")
    until(lambda: [sync(), row_of(newer).pending_wish is None][1])
    found = at_broker(broker, newer)
    assert found is not None
    assert not found["connected"], "logged out"
    sync()
    assert (row_of(newer).status, row_of(older).status) == ("duplicate", "connected")


def test_other_tenants_are_not_consulted(house: World, broker: Broker) -> None:
    here = connected(broker, house.admin, "Loja", "5511911112222")
    there = connected(broker, house.outsider, "Loja", "5511911112222")
    sync()
    assert (row_of(here).status, row_of(there).status) == ("connected", "connected")


# --- Strikes ---------------------------------------------------------------------------------------------------------


def test_three_refused_sends_against_an_open_line_move_it(house: World, broker: Broker) -> None:
    session = connected(broker, house.admin)
    for strikes in (1, 2):
        sync_session(session_id=session.pk, origin=Origin("sync"), contradicted=True)
        row = row_of(session)
        assert (row.status, row.strikes) == ("connected", strikes)
    sync_session(session_id=session.pk, origin=Origin("sync"), contradicted=True)
    row = row_of(session)
    assert (row.status, row.strikes) == ("connecting", 0)
    becomes(session, "connected")


def test_strikes_that_the_broker_confirms_are_a_drop_at_once(house: World, broker: Broker) -> None:
    session = connected(broker, house.admin)
    close(broker, session, 428)
    sync_session(session_id=session.pk, origin=Origin("sync"), contradicted=True)
    assert row_of(session).status == "connecting"


def test_the_pace_of_a_line_is_what_its_broker_keeps_for_it(house: World, broker: Broker) -> None:
    session = connected(broker, house.admin)
    broker.behave(str(wire_name(fresh(session))), rate={"max": 7, "windowMs": 3000})
    sync_session(session_id=session.pk, origin=Origin("sync"))
    assert row_of(session).capabilities["rate"] == {"max": 7, "windowMs": 3000}
    with tenant_scope(house.ipe.pk):
        line = find_line(session.pk)
    assert line is not None
    assert line.capabilities.rate == (7, 3.0)
    assert "types" in row_of(session).capabilities  # what else is known of it stays
