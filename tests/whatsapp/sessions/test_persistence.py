"""Saving the two protected tables while the database fails: really, by ended and refused connections."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any

import psycopg
import pytest
from django.db import connection
from django.db.models import F
from django.test import Client
from django.utils import timezone
from pytest_django.fixtures import Settings
from rest_framework.request import Request
from rest_framework.test import APIRequestFactory

from leadengine.accounts.scopes import service_scope, tenant_scope
from leadengine.envelope import handle_exception
from leadengine.logging import configure
from tests.api import by_cookie, by_key
from tests.conftest import World
from tests.environment import NAME, SERVER
from tests.samples import sample
from tests.whatsapp.sessions.conftest import asker
from whatsapp.adapters import SessionState
from whatsapp.models import PersistenceJournal, SessionEvent, WhatsAppSession
from whatsapp.services.journal import pending_lines, replay_journal
from whatsapp.services.persistence import PersistenceUnavailable, is_saving, persist
from whatsapp.services.sessions.changing import Origin
from whatsapp.services.sessions.observing import APPLIERS, observe
from whatsapp.services.sessions.wishes import NewSession, create_session

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("hasty")]
PHONE, QR, KEY = "+5511987654321", "data:image/png;base64,QRQRQR", "key-1234"


@pytest.fixture
def hasty(settings: Settings, tmp_path: Path) -> None:
    settings.PERSISTENCE_RETRY_DELAYS_MS = [0, 0, 0]
    settings.PERSISTENCE_JOURNAL_DIR = tmp_path / "journal"


@contextmanager
def database_away() -> Iterator[None]:
    """This thread's connection is lost, and every new one is refused."""
    connection.close()
    port, connection.settings_dict["PORT"] = connection.settings_dict["PORT"], 9
    try:
        yield
    finally:
        connection.settings_dict["PORT"] = port
        connection.close()


def end_own_connection() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")


def counted(result: str, operation: str) -> float:
    return sample("whatsapp_persistence_operations_total", operation=operation, result=result)


def rename(world: World, name: str, failures: list[Callable[[], None]]) -> Callable[[], int]:
    """A write that first writes, then fails as often as there are failures."""

    def write() -> int:
        assert is_saving()
        changed: int = WhatsAppSession.objects.filter(pk=world.line.pk).update(session_name=name)
        if failures:
            failures.pop()()
        return changed

    return write


def sessions() -> set[str]:
    with service_scope("test"):
        return set(WhatsAppSession.objects.values_list("session_name", flat=True))


def wish(world: World) -> NewSession:
    return NewSession(tenant_id=world.ipe.pk, owner=world.agent, name="Nova", auto_connect=True)


def closed(world: World) -> SessionState:
    return SessionState("ipe-01", "closed", close_code=401, logged_out=True, phone=PHONE)


def see_closed(world: World, at: datetime) -> None:
    observe(
        session_id=world.line.pk, tenant_id=world.ipe.pk, state=closed(world), began=at, origin=Origin("sync"), now=at
    )


def status_of(world: World) -> tuple[str, int]:
    """The line's status, and how many changes its history has."""
    with service_scope("test"):
        row = WhatsAppSession.objects.get(pk=world.line.pk)
        return row.status, SessionEvent.objects.filter(session=row).count()


# --- Tried again -------------------------------------------------------------------------------------------------


def test_session_p06_a_save_whose_connection_is_ended_twice_succeeds(committed_world: World) -> None:
    scope = partial(tenant_scope, committed_world.ipe.pk)
    before = {result: counted(result, "a.save") for result in ("success", "retry", "error")}
    failures = [end_own_connection, end_own_connection]
    assert persist("a.save", rename(committed_world, "Nova", failures), scope=scope) == 1
    assert sessions() == {"Nova", "Cedro"}
    after = {result: counted(result, "a.save") - before[result] for result in before}
    assert after == {"success": 1, "retry": 2, "error": 0}
    assert not is_saving()


def test_session_p06_a_deadlock_is_tried_again(committed_world: World) -> None:
    world, touch = committed_world, "UPDATE whatsapp_sessions SET strikes = strikes + 1 WHERE id = %s"
    threads: list[Thread] = []
    # A superuser, since only they may wait longer than we for the end of a deadlock: so it is us who are ended.
    with psycopg.connect(SERVER._replace(path=f"/{NAME}").geturl()) as other:
        other.execute("SET deadlock_timeout = '60s'")
        other.execute(touch, [world.foreign_line.pk])

        def rest() -> None:
            other.execute(touch, [world.line.pk])
            other.commit()

        def write() -> None:
            for line in (world.line, world.foreign_line):
                WhatsAppSession.objects.filter(pk=line.pk).update(strikes=F("strikes") + 1)
                if not threads:
                    threads.append(Thread(target=rest))
                    threads[0].start()

        retries = counted("retry", "a.save")
        persist("a.save", write, scope=partial(service_scope, "test"))
        threads[0].join()
    assert counted("retry", "a.save") == retries + 1
    with service_scope("test"):
        assert list(WhatsAppSession.objects.values_list("strikes", flat=True)) == [2, 2]


def test_session_p06_what_is_not_the_databases_fault_is_not_tried_again(committed_world: World) -> None:
    tries: list[int] = []

    def write() -> None:
        tries.append(1)
        WhatsAppSession.objects.filter(pk=committed_world.line.pk).update(session_name="Nova")
        raise ValueError("ours")

    with pytest.raises(ValueError, match="ours"):
        persist("a.save", write, scope=partial(tenant_scope, committed_world.ipe.pk))
    assert (len(tries), sessions()) == (1, {"Loja", "Cedro"})


# --- Given up ----------------------------------------------------------------------------------------------------


def test_session_p06_a_wish_without_a_database_gets_503_and_leaves_nothing(committed_world: World) -> None:
    errors = counted("error", "session.create")
    with database_away(), pytest.raises(PersistenceUnavailable) as refusal:
        create_session(wish=wish(committed_world), asker=asker(committed_world.agent), now=timezone.now())
    response = handle_exception(refusal.value, {"request": Request(APIRequestFactory().post("/"))})
    assert response is not None
    assert (response.status_code, response["Retry-After"]) == (503, "5")
    assert response.data["error"]["code"] == "PERSISTENCE_UNAVAILABLE"
    assert counted("error", "session.create") == errors + 1
    assert (sessions(), pending_lines()) == ({"Loja", "Cedro"}, 0)


NATIVE = "/api/integrations/whatsapp"
SURFACES = (
    ("get", f"{NATIVE}/instances"), ("get", f"{NATIVE}/instances/inst-ipe-01"), ("post", f"{NATIVE}/instances"),
    ("delete", f"{NATIVE}/instances/inst-ipe-01"), ("post", f"{NATIVE}/session/connect"), ("get", "/instance/list"),
    ("post", "/instance/inst-ipe-01/connect"), ("post", "/message/inst-ipe-01/text"),
    ("get", "/api/baileys-simple/connections"), ("post", "/api/baileys-simple/connections/inst-ipe-01/send-message"),
)  # fmt: skip


def unavailable(client: Client, method: str, address: str) -> bool:
    """Whether a call is told to come again, in the envelope."""
    response = client.generic(method.upper(), address, b'{"name": "x"}', content_type="application/json")
    told = (response.status_code, response.headers.get("Retry-After"), response.json()["error"]["code"])
    return told == (503, "5", "PERSISTENCE_UNAVAILABLE")


def test_session_p06_every_surface_says_503_when_the_key_or_the_connection_cannot_be_read(
    committed_world: World, settings: Settings
) -> None:
    settings.WHATSAPP_BROKER_URL = "http://127.0.0.1:9"  # nobody listens there
    client, browser = by_key(committed_world.admin), by_cookie(committed_world.admin)
    with database_away():
        for method, address in SURFACES:
            assert unavailable(client, method, address), address
    with connection.cursor() as cursor:
        cursor.execute("SET statement_timeout = 50")
    try:
        with psycopg.connect(SERVER._replace(path=f"/{NAME}").geturl()) as other:
            other.execute("LOCK TABLE whatsapp_sessions")  # the caller is found, the connection is not
            for method, address in SURFACES[:2]:
                assert unavailable(client, method, address), address
                assert unavailable(browser, method, address), address
    finally:
        connection.close()
    assert client.get(f"{NATIVE}/instances/inst-ipe-01").status_code == 200


def test_session_p06_a_save_that_fails_to_the_end_leaves_nothing(committed_world: World) -> None:
    failures = [end_own_connection] * 4
    with pytest.raises(PersistenceUnavailable):
        persist("a.save", rename(committed_world, "x", failures), scope=partial(tenant_scope, committed_world.ipe.pk))
    assert (failures, sessions()) == ([], {"Loja", "Cedro"})


def test_session_p06_a_fact_without_a_database_is_in_the_journal_and_applied_once(committed_world: World) -> None:
    world, at = committed_world, timezone.now()
    with database_away():
        see_closed(world, at)
        assert pending_lines() == 1
        assert replay_journal(appliers=APPLIERS, now=timezone.now()).left == 1
    assert status_of(world) == ("connected", 0)
    assert replay_journal(appliers=APPLIERS, now=timezone.now()).applied == 1
    assert status_of(world) == ("logged_out", 1)
    assert replay_journal(appliers=APPLIERS, now=timezone.now()).applied == 0
    assert (status_of(world), pending_lines()) == (("logged_out", 1), 0)
    with tenant_scope(world.ipe.pk):
        row = PersistenceJournal.objects.get()
    assert (row.status, row.operation, row.session_id, row.recorded_at) == (
        "applied", "session.observe", world.line.pk, at,
    )  # fmt: skip


def test_session_p06_a_fact_that_is_older_than_the_row_is_superseded(committed_world: World) -> None:
    world, at = committed_world, timezone.now()
    with database_away():
        see_closed(world, at - timedelta(seconds=5))
    see_closed(world, at)
    assert replay_journal(appliers=APPLIERS, now=timezone.now()).superseded == 1
    assert status_of(world) == ("logged_out", 1)


# --- The log -----------------------------------------------------------------------------------------------------


@pytest.fixture
def log_file(tmp_path: Path) -> Iterator[Path]:
    """PERSISTENCE_LOG_FILE, as a start of the product sets it up."""
    root, own = logging.getLogger(), logging.getLogger("whatsapp.persistence")
    handlers, level, before = root.handlers[:], root.level, (own.handlers[:], own.propagate, own.level)
    path = tmp_path / "persistence.log"
    configure({"level": "WARNING", "form": "console", "persistence_file": str(path)})
    yield path
    for handler in own.handlers:
        handler.close()
    root.handlers[:], own.handlers[:], own.propagate = handlers, before[0], before[1]
    root.setLevel(level)
    own.setLevel(before[2])


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_session_p71_each_save_retry_and_recovery_is_one_json_line(committed_world: World, log_file: Path) -> None:
    world, scope = committed_world, partial(tenant_scope, committed_world.ipe.pk)

    def write() -> None:
        values = {"qr_code": QR, "phone_number": PHONE, "metadata": {"apiKey": KEY}}
        WhatsAppSession.objects.filter(pk=world.line.pk).update(**values)
        if failures:
            failures.pop()()

    failures = [end_own_connection]
    persist("a.save", write, scope=scope)
    with scope():  # inside the transaction of another: told when that is committed
        persist("inner.save", write)
        assert len(lines(log_file)) == 2
    with database_away():
        see_closed(world, timezone.now())
    replay_journal(appliers=APPLIERS, now=timezone.now())
    told = [(line["event"], line.get("operation"), line.get("attempt"), line.get("reason")) for line in lines(log_file)]
    assert told[:3] == [
        ("persistence_retry", "a.save", 1, "AdminShutdown"), ("persistence_success", "a.save", 2, None),
        ("persistence_success", "inner.save", 1, None),
    ]  # fmt: skip
    assert [(event, attempt) for event, operation, attempt, _ in told[3:] if operation == "session.observe"] == [
        ("persistence_retry", 1), ("persistence_retry", 2), ("persistence_retry", 3), ("persistence_error", 4),
        ("persistence_journaled", None), ("persistence_success", 1), ("persistence_replayed", None),
    ]  # fmt: skip
    assert {line["logger"] for line in lines(log_file)} == {"whatsapp.persistence"}
    assert all(datetime.fromisoformat(line["timestamp"]).tzinfo and line["level"] for line in lines(log_file))
    text = log_file.read_text()
    assert not [secret for secret in (PHONE, PHONE[1:], QR, "QRQRQR", KEY) if secret in text]


def test_session_p71_the_file_is_opened_again_when_it_was_rotated(committed_world: World, log_file: Path) -> None:
    save = partial(
        persist, "a.save", rename(committed_world, "x", []), scope=partial(tenant_scope, committed_world.ipe.pk)
    )
    save()
    old = log_file.rename(log_file.with_suffix(".1"))
    save()
    assert (len(lines(old)), len(lines(log_file))) == (1, 1)


def test_session_p71_nothing_of_it_goes_to_standard_output(
    committed_world: World, log_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write = rename(committed_world, "x", [end_own_connection])
    persist("a.save", write, scope=partial(tenant_scope, committed_world.ipe.pk))
    assert len(lines(log_file)) == 2
    assert "persistence" not in capsys.readouterr().out
