"""The journal: a fact that could not be saved waits in a file, and becomes one row, once."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import Any, Literal
from uuid import UUID, uuid4

import pytest
from django.core.management import call_command
from django.db import OperationalError, connection
from pytest_django.fixtures import Settings

from leadengine.accounts.scopes import service_scope
from tests.conftest import ROOT, World
from whatsapp.models import PersistenceJournal
from whatsapp.services.journal import Replayed, pending_lines, record_fact, replay_journal
from whatsapp.services.sessions.observing import OPERATION

AT = datetime(2026, 11, 22, 3, 0, tzinfo=UTC)
NOW = datetime(2026, 11, 22, 3, 1, tzinfo=UTC)


class Applied:
    """An applier that remembers what it was given, and answers with the fact's `result`."""

    def __init__(self) -> None:
        self.facts: list[Mapping[str, Any]] = []
        self.calls: list[tuple[UUID, UUID, datetime]] = []

    def __call__(
        self, *, tenant_id: UUID, session_id: UUID, fact: Mapping[str, Any], at: datetime
    ) -> Literal["applied", "superseded"]:
        assert not connection.in_atomic_block
        if fact.get("result") == "raise":
            raise ValueError("no such state")
        if fact.get("result") == "away":
            raise OperationalError("the connection is lost")
        self.facts.append(fact)
        self.calls.append((tenant_id, session_id, at))
        return "superseded" if fact.get("result") == "superseded" else "applied"


@pytest.fixture
def folder(settings: Settings, tmp_path: Path) -> Path:
    folder = tmp_path / "data" / "journal"
    settings.PERSISTENCE_JOURNAL_DIR = folder
    return folder


@pytest.fixture
def applier() -> Applied:
    return Applied()


def note(world: World, **fact: Any) -> None:
    record_fact(operation="a.fact", tenant_id=world.ipe.pk, session_id=world.line.pk, fact=fact, at=AT)


def rows() -> list[tuple[str, str, dict[str, Any]]]:
    with service_scope("test"):
        return list(PersistenceJournal.objects.order_by("created_at").values_list("status", "reason", "entry"))


def replay(applier: Applied) -> Replayed:
    return replay_journal(appliers={"a.fact": applier}, now=NOW)


# --- Recording ---------------------------------------------------------------------------------------------------


def test_a_line_holds_the_fact_for_our_eyes_only_and_neither_qr_nor_keys(folder: Path) -> None:
    tenant, session = uuid4(), uuid4()
    fact = {
        "state": "connected", "phone": "+5511988887777", "qrCode": "data:image/png", "hasLastQr": True,
        "info": {"apiKey": "k", "name": "Loja", "list": [{"webhookSecret": "s", "ok": 1}]},
    }  # fmt: skip
    record_fact(operation="a.fact", tenant_id=tenant, session_id=session, fact=fact, at=AT)
    (file,) = folder.glob("*.jsonl")
    assert (folder.stat().st_mode & 0o777, file.stat().st_mode & 0o777) == (0o700, 0o600)
    line = json.loads(file.read_text())
    assert UUID(line.pop("id")).version == 4
    assert line == {
        "operation": "a.fact", "tenantId": str(tenant), "sessionId": str(session), "at": AT.isoformat(),
        "fact": {"state": "connected", "phone": "+5511988887777", "info": {"name": "Loja", "list": [{"ok": 1}]}},
    }  # fmt: skip
    assert pending_lines() == 1


def test_without_a_directory_nothing_is_pending(folder: Path) -> None:
    assert pending_lines() == 0
    assert not folder.exists()


# --- Replaying ---------------------------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
def test_each_line_becomes_a_row_and_the_file_goes(committed_world: World, folder: Path, applier: Applied) -> None:
    note(committed_world, state="connected")
    note(committed_world, result="superseded")
    note(committed_world, result="raise")
    record_fact(operation="unknown", tenant_id=committed_world.ipe.pk, session_id=None, fact={}, at=AT)
    assert pending_lines() == 4
    assert replay(applier) == Replayed(applied=1, superseded=1, failed=2)
    assert rows() == [
        ("applied", "", {"state": "connected"}), ("superseded", "", {"result": "superseded"}),
        ("failed", "ValueError: no such state", {"result": "raise"}), ("failed", "no applier", {}),
    ]  # fmt: skip
    assert applier.calls[0] == (committed_world.ipe.pk, committed_world.line.pk, AT)
    with service_scope("test"):
        row = PersistenceJournal.objects.get(status="applied")
    assert (row.tenant_id, row.session_id, row.recorded_at) == (committed_world.ipe.pk, committed_world.line.pk, AT)
    assert (pending_lines(), list(folder.glob("*.jsonl"))) == (0, [])
    assert replay(applier) == Replayed()


@pytest.mark.django_db(transaction=True)
def test_a_line_that_has_its_row_is_not_applied_again(committed_world: World, folder: Path, applier: Applied) -> None:
    note(committed_world, state="connected")
    (file,) = folder.glob("*.jsonl")
    copy = file.read_bytes()
    assert replay(applier).applied == 1
    file.write_bytes(copy)  # a kill came between the row and the removal
    assert replay(applier) == Replayed(known=1)
    assert (len(applier.facts), len(rows()), file.exists()) == (1, 1, False)


@pytest.mark.django_db(transaction=True)
def test_a_line_that_a_kill_cut_off_stops_nobody(committed_world: World, folder: Path, applier: Applied) -> None:
    note(committed_world, number=1)
    (file,) = folder.glob("*.jsonl")
    with file.open("ab") as torn:
        torn.write(b'{"id": "0193')
    note(committed_world, number=2)  # the same process id, in another life
    with file.open("ab") as torn:
        torn.write(b'{"id": "0193", "fa')
    assert replay(applier) == Replayed(applied=2, torn=2)
    assert [fact["number"] for fact in applier.facts] == [1, 2]
    assert not file.exists()


@pytest.mark.django_db(transaction=True)
def test_without_the_database_the_lines_stay(committed_world: World, folder: Path, applier: Applied) -> None:
    note(committed_world, state="connected")
    note(committed_world, result="away")
    note(committed_world, state="connected")
    assert replay(applier) == Replayed(applied=1, left=2)
    assert pending_lines() == 3
    (file,) = folder.glob("*.jsonl")
    file.write_text(file.read_text().replace("away", "applied"))
    assert replay(applier) == Replayed(applied=2, known=1)
    assert (len(rows()), pending_lines()) == (3, 0)


@pytest.mark.django_db(transaction=True)
def test_a_line_of_a_tenant_that_is_gone_stays_and_stops_nobody(
    committed_world: World, folder: Path, applier: Applied
) -> None:
    record_fact(operation="a.fact", tenant_id=uuid4(), session_id=None, fact={}, at=AT)
    note(committed_world, state="connected")
    assert replay(applier) == Replayed(applied=1, left=1)


@pytest.mark.django_db(transaction=True)
def test_what_is_added_during_the_replay_is_not_lost(committed_world: World, folder: Path) -> None:
    def add(**_: Any) -> Literal["applied"]:
        if pending_lines() == 1:
            note(committed_world, state="added")
        return "applied"

    note(committed_world, state="connected")
    for expected in (Replayed(applied=1), Replayed(applied=1, known=1)):
        assert replay_journal(appliers={"a.fact": add}, now=NOW) == expected
    assert (len(rows()), pending_lines()) == (2, 0)


@pytest.mark.django_db(transaction=True)
def test_only_one_process_replays_a_directory(committed_world: World, folder: Path, applier: Applied) -> None:
    note(committed_world, state="connected")
    with (folder / ".lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert replay(applier) == Replayed(left=1)
    assert replay(applier) == Replayed(applied=1)


@pytest.mark.django_db(transaction=True)
def test_a_fact_of_a_killed_process_is_replayed(committed_world: World, folder: Path, applier: Applied) -> None:
    script = f"""
        import os, signal, django
        from datetime import UTC, datetime
        django.setup()
        from whatsapp.services.journal import record_fact
        record_fact(operation="a.fact", tenant_id="{committed_world.ipe.pk}", session_id=None, fact={{"n": 1}},
                    at=datetime.now(UTC))
        os.kill(os.getpid(), signal.SIGKILL)
    """

    env = {**os.environ, "PERSISTENCE_JOURNAL_DIR": str(folder)}
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], env=env, cwd=ROOT, check=False)
    assert run.returncode == -9
    assert replay(applier) == Replayed(applied=1)


@pytest.mark.django_db(transaction=True)
def test_the_command_tells_and_fails_while_lines_remain(committed_world: World, folder: Path) -> None:
    def run() -> tuple[int, dict[str, int]]:
        out = StringIO()
        try:
            call_command("drain_persistence_journal", "--json", stdout=out)
        except SystemExit as end:
            return int(str(end.code)), json.loads(out.getvalue())
        return 0, json.loads(out.getvalue())

    state = {"instance": "ipe-01", "state": "closed", "closeCode": 401, "loggedOut": True, "source": "sync"}
    line, tenant = committed_world.line.pk, committed_world.ipe.pk
    record_fact(operation=OPERATION, tenant_id=tenant, session_id=line, fact=state, at=datetime.now(UTC))
    with (folder / ".lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert run() == (1, {"applied": 0, "superseded": 0, "failed": 0, "known": 0, "torn": 0, "left": 1})
    assert run() == (0, {"applied": 1, "superseded": 0, "failed": 0, "known": 0, "torn": 0, "left": 0})
    with service_scope("test"):
        committed_world.line.refresh_from_db()
    assert committed_world.line.status == "logged_out"
