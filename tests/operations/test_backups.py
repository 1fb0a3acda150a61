"""Backups: what stands in them, what is noticed, and the way back. Against the real server and its programs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.core.management import CommandError, call_command
from django.db import connections
from django.test import Client
from django.utils import timezone
from pytest_django.fixtures import Settings

from leadengine.accounts.models import Tenant
from leadengine.accounts.scopes import service_scope
from leadengine.operations.backups import (
    Backup,
    BackupFailed,
    create_backup,
    latest_backup,
    restore_backup,
    verify_backup,
)
from leadengine.operations.backups.files import manifest_of
from leadengine.operations.backups.restoring import STEPS
from leadengine.operations.models import BackupRecord
from leadengine.operations.simulated import Line, find_simulator
from tests.conftest import World
from tests.environment import NAME, url
from tests.operations.conftest import SimulatorThread
from tests.webhooks.receiver import connect
from tests.whatsapp.inbound import receive, text_event
from tickets.models import Message
from whatsapp.api.closed import sign
from whatsapp.models import Maintenance, WhatsAppSession
from whatsapp.services.persistence import saving

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "owner"])


@pytest.fixture(autouse=True)
def place(tmp_path: Path, settings: Settings) -> Path:
    """Where this test's backups lie. There is no broker, unless a test has one."""
    settings.WHATSAPP_BROKER_URL = ""
    sign.forget()
    settings.DATABASE_BACKUP_URL = url("leadengine_backup")
    settings.BACKUP_DIR = tmp_path / "backups"
    return tmp_path / "backups"


def owner(statement: str) -> list[Any]:
    with psycopg.connect(url("leadengine_owner"), autocommit=True) as connection:
        cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else []


def command(*words: str) -> Any:
    """What a command prints as JSON."""
    out = StringIO()
    call_command(*words, "--json", stdout=out)
    return json.loads(out.getvalue())


def rewritten(backup: Backup, change: Callable[[dict[str, Any]], None]) -> Backup:
    """The backup with another manifest."""
    manifest = json.loads(manifest_of(backup.path).read_text())
    change(manifest)
    manifest_of(backup.path).write_text(json.dumps(manifest))
    return Backup.read(backup.path)


def no_files(place: Path) -> bool:
    return not place.exists() or not list(place.iterdir())


def test_session_p60_a_backup_is_complete_and_recorded(committed_world: World, place: Path) -> None:
    receive(text_event("um"), text_event("dois"))
    done = command("backup_create", "--kind", "daily")
    row = BackupRecord.objects.get()
    path = Path(done["file"])
    assert path.parent == place
    assert path.name.startswith("leadengine_daily_2")
    assert (row.kind, row.path, row.sha256, row.bytes, row.encrypted) == (
        "daily", str(path), done["sha256"], path.stat().st_size, False,
    )  # fmt: skip
    assert row.manifest == Backup.read(path).manifest
    assert row.manifest["tables"]["tickets_message"] == 2
    assert row.manifest["tables"]["whatsapp_sessions"] == 2  # of both tenants: no policy binds the backup
    assert row.manifest["rls"]["whatsapp_sessions"] == [True, True]
    assert "operations.0003_backups" in row.manifest["migrations"]
    assert {name for _, name in row.manifest["sessions"]} == {"inst-ipe-01", "inst-cedro-01"}
    assert row.manifest["canary"]["version"] == 1  # P-07: each backup holds a snapshot
    assert (path.stat().st_mode & 0o777, manifest_of(path).stat().st_mode & 0o777) == (0o600, 0o600)
    assert {each.name for each in place.iterdir()} == {path.name, manifest_of(path).name}
    assert [each["file"] for each in command("backup_list")] == [str(path)]


def test_session_p63_and_p64_a_good_backup_verifies_and_damage_is_noticed(committed_world: World) -> None:
    receive(text_event("um"))
    backup = create_backup(kind="manual")
    done = command("backup_verify", "--latest")
    assert (done["file"], done["rows"]) == (str(backup.path), sum(backup.manifest["tables"].values()))
    row = BackupRecord.objects.get()
    assert row.verified_at is not None
    assert row.verify_seconds == done["seconds"]
    with psycopg.connect(url("leadengine_owner")) as connection:
        names = connection.execute("SELECT datname FROM pg_database WHERE datname LIKE '%verify'").fetchall()
        assert (f"{NAME}_verify",) not in names

    whole = backup.path.read_bytes()
    middle = len(whole) // 2
    backup.path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    with pytest.raises(CommandError, match="damaged: its checksum"):
        command("backup_verify", str(backup.path))
    row = BackupRecord.objects.get()
    assert (row.verified_at is None, "checksum" in row.verify_error) == (True, True)
    backup.path.write_bytes(whole[:-1])
    with pytest.raises(BackupFailed, match="damaged: its size"):
        verify_backup(backup)
    backup.path.write_bytes(whole)

    with pytest.raises(BackupFailed, match="tables: tickets_message"):
        verify_backup(rewritten(backup, lambda manifest: manifest["tables"].update(tickets_message=3)))
    with pytest.raises(BackupFailed, match="canary: md5"):
        verify_backup(rewritten(backup, lambda manifest: manifest["canary"].update(md5="another")))


def test_session_p64_a_dropped_policy_or_right_is_noticed(committed_world: World) -> None:
    """The manifest tells of the walls as they were; the dump was made when some were gone, or more was allowed."""
    whole = create_backup(kind="manual")
    expected = {name: whole.manifest[name] for name in ("rls", "policies", "grants", "parts", "canary", "tables")}
    name, (_, _, _, using, _) = (
        "whatsapp_sessions_scope",
        whole.manifest["policies"]["whatsapp_sessions.whatsapp_sessions_scope"],
    )
    owner(f"DROP POLICY {name} ON whatsapp_sessions")
    owner("ALTER TABLE leads_contact NO FORCE ROW LEVEL SECURITY")
    owner("GRANT DELETE ON whatsapp_sessions TO leadengine_app")
    try:
        broken = create_backup(kind="manual")
    finally:
        owner(f"CREATE POLICY {name} ON whatsapp_sessions USING {using} WITH CHECK {using}")
        owner("ALTER TABLE leads_contact FORCE ROW LEVEL SECURITY")
        owner("REVOKE DELETE ON whatsapp_sessions FROM leadengine_app")
    with pytest.raises(BackupFailed) as told:
        verify_backup(rewritten(broken, lambda manifest: manifest.update(expected)))
    for words in (
        f"policies: whatsapp_sessions.{name}",
        "rls: leads_contact",
        "grants: whatsapp_sessions leadengine_a",
    ):
        assert words in str(told.value)


@pytest.mark.parametrize("role", ["leadengine_owner", "leadengine_app"])
def test_a_backup_by_a_role_behind_the_wall_fails(
    committed_world: World, place: Path, settings: Settings, role: str
) -> None:
    settings.DATABASE_BACKUP_URL = url(role)
    with pytest.raises(CommandError, match="row level security"):
        call_command("backup_create")
    assert no_files(place)
    assert not BackupRecord.objects.exists()


def test_rows_that_are_missing_in_the_dump_fail_it(
    committed_world: World, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a dump with row security switched on would give: it ends well, and its tables are empty."""
    from leadengine.operations.backups import creating

    dump = creating._dump
    monkeypatch.setattr(creating, "_dump", lambda path, snapshot, _: dump(path, snapshot, {"whatsapp_sessions"}))
    with pytest.raises(CommandError, match="holds 0 rows of whatsapp_sessions, the database 2"):
        call_command("backup_create")
    assert no_files(place)
    assert not BackupRecord.objects.exists()


def test_a_dump_that_fails_leaves_nothing(
    committed_world: World, place: Path, tmp_path: Path, settings: Settings
) -> None:
    from leadengine.embedded.postgres import find_binaries

    settings.PG_BIN_DIR = str(tmp_path)
    for name, text in (
        ("pg_dump", "case $1 in --version) echo 'pg_dump 99.1';; *) echo 'error: no' >&2; exit 1; esac"),
    ):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    with pytest.raises(CommandError, match="pg_dump failed: error: no"):
        call_command("backup_create")
    (tmp_path / "old").mkdir()
    settings.PG_BIN_DIR = str(tmp_path / "old")
    shutil.copy(find_binaries() / "psql", tmp_path / "old" / "psql")
    (tmp_path / "old" / "psql").write_text("#!/bin/sh\necho psql 9.6\n")
    with pytest.raises(CommandError, match="older than the server"):
        call_command("backup_create")
    assert no_files(place)
    assert not BackupRecord.objects.exists()


@pytest.mark.skipif(shutil.which("gpg") is None, reason="gpg is part of the image, not of every machine")
def test_backups_are_encrypted_in_production(
    committed_world: World, place: Path, tmp_path: Path, settings: Settings
) -> None:
    receive(text_event("um segredo"))
    settings.DEVELOPMENT = False
    with pytest.raises(CommandError, match="BACKUP_PASSPHRASE_FILE"):
        call_command("backup_create")
    (tmp_path / "passphrase").write_text("correct horse")
    settings.BACKUP_PASSPHRASE_FILE = str(tmp_path / "passphrase")
    backup = create_backup(kind="manual")
    assert backup.path.name.endswith(".dump.gpg")
    assert backup.manifest["encrypted"]
    assert b"PGDMP" not in backup.path.read_bytes()
    verify_backup(backup)
    (tmp_path / "passphrase").write_text("another one")
    with pytest.raises(BackupFailed, match="gpg failed"):
        verify_backup(backup)
    assert {each.name for each in place.iterdir()} == {backup.path.name, manifest_of(backup.path).name}


def test_parts_hold_only_their_rows_and_verify(committed_world: World) -> None:
    connect(committed_world.admin, "https://erp.example.test/")
    receive(text_event("um"))
    protected = create_backup(kind="manual", part="protected")
    counts = protected.manifest["tables"]
    assert (counts["whatsapp_sessions"], counts["accounts_tenant"], counts["tickets_message"]) == (2, 0, 0)
    assert counts["whatsapp_atendimentos"] == 1
    verify_backup(protected)
    kept = create_backup(kind="manual", part="settings").manifest["tables"]
    assert (kept["whatsapp_sessions"], kept["accounts_user"], kept["whatsapp_atendimentos"]) == (2, 6, 0)
    assert (kept["webhooks_endpoint"], kept["webhooks_delivery"]) == (1, 0)
    with pytest.raises(CommandError, match="no backup of everything"):
        call_command("backup_restore", "--latest", "--yes")
    with pytest.raises(BackupFailed, match="a part of the database only"):
        restore_backup(protected, say=print)
    without = create_backup(kind="manual", without_messages=True)
    counts = without.manifest["tables"]
    assert (counts["tickets_message"], counts["whatsapp_webhookevent"], counts["tickets_ticket"]) == (0, 0, 1)
    told = ("webhooks_outgoingevent", "webhooks_delivery", "webhooks_endpoint")
    assert [counts[name] for name in told] == [0, 0, 1]
    verify_backup(without)


def test_session_p63_and_p65_and_p66_restore_brings_everything_back(
    committed_world: World, simulator: SimulatorThread, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    receive(text_event("um"), text_event("dois"))
    world = committed_world
    settings.WHATSAPP_BROKER_URL = simulator.url
    broker = find_simulator()
    assert broker is not None
    broker.open(Line(name, name) for name in ("ipe-01", "cedro-01"))
    with service_scope("test"), saving():
        WhatsAppSession.objects.update(desired_state="connected", status="connected")
    with service_scope("test"):
        said_once = Message.objects.get(content="um")
        Message.objects.create(
            tenant=world.ipe, ticket_id=said_once.ticket_id, contact_id=said_once.contact_id, position=3,
            direction="OUTBOUND", status="QUEUED", source="AGENT", sent_at=timezone.now(), content="resposta",
            session_id=world.line.pk,
        )  # fmt: skip
    backup = create_backup(kind="daily")
    rights = backup.manifest["grants"]
    with service_scope("test"), saving():
        Message.objects.filter(content="dois").delete()
        WhatsAppSession.objects.filter(pk=world.line.pk).update(session_name="Outro nome", auto_reconnect=False)
        Tenant.objects.create(slug="novo", name="Novo")
    call_command("backup_restore", "--latest", "--yes")
    said = capsys.readouterr().out.splitlines()
    assert "2 sessions expected, 0 still to come, message stored" in said[4]
    assert [line.split(". ")[1].rsplit(maxsplit=2)[0].strip() for line in said[:4]] == list(STEPS)
    assert all(line.endswith(" s") for line in said[:4])
    with service_scope("test"):
        assert sorted(Message.objects.values_list("content", flat=True)) == ["dois", "resposta", "um"]
        waited = Message.objects.get(content="resposta")  # it may have left since: it does not leave twice
        assert (waited.status, (waited.error or {})["code"]) == ("FAILED", "RESTORED")
        line = WhatsAppSession.objects.get(pk=world.line.pk)
        assert (line.session_name, line.auto_reconnect) == ("Loja", True)
    assert not Tenant.objects.filter(slug="novo").exists()
    assert not Maintenance.objects.get(pk=1).closed
    assert latest_backup().path == backup.path  # and not what the restore put aside
    assert create_backup(kind="manual").manifest["grants"] == rights  # DELETE on sessions has not come back
    kinds = set(BackupRecord.objects.values_list("kind", flat=True))
    assert kinds == {"daily", "pre_restore", "manual"}  # the restored table had none of them
    assert Client().get("/ready").status_code == 200


def test_session_p65_an_error_before_the_commit_changes_nothing_and_opens_again(committed_world: World) -> None:
    receive(text_event("um"))
    backup = create_backup(kind="manual")
    receive(text_event("dois"))
    wrong = rewritten(backup, lambda manifest: manifest["tables"].update(tickets_message=7))
    with pytest.raises(BackupFailed, match="wrong count of tickets_message"):
        restore_backup(wrong, say=print)
    whole = backup.path.read_bytes()
    backup.path.write_bytes(whole[:-20])
    with pytest.raises(BackupFailed, match="damaged"):
        restore_backup(backup, say=print)
    with service_scope("test"):
        assert Message.objects.count() == 2
    assert not Maintenance.objects.get(pk=1).closed


def test_session_p66_what_is_not_well_after_the_commit_leaves_the_product_closed(
    committed_world: World, settings: Settings
) -> None:
    backup = create_backup(kind="manual")
    wrong = rewritten(backup, lambda manifest: manifest["sessions"].pop())
    with pytest.raises(BackupFailed, match="stays closed: The list of sessions"):
        restore_backup(wrong, say=print)
    assert is_closed()
    said: list[bool] = []
    restore_backup(Backup.read(latest("pre_restore")), say=lambda _: said.append(is_closed()))
    assert said == [True] * len(STEPS)
    assert not is_closed()  # what the first closed, the second opens


def is_closed() -> bool:
    """What the web processes see at their next look."""
    sign.forget()
    return sign.is_closed()


def latest(kind: str) -> Path:
    return Path(BackupRecord.objects.filter(kind=kind).latest("created_at").path)


def test_restore_asks_first(committed_world: World) -> None:
    create_backup(kind="manual")
    with pytest.raises(CommandError, match="say --yes"):
        call_command("backup_restore", "--latest")
    with pytest.raises(CommandError, match="FILE, or say --latest"):
        call_command("backup_restore", "--yes")


@pytest.fixture
def pending() -> Iterator[None]:
    """One migration that this database has not seen."""
    rows = owner("DELETE FROM django_migrations WHERE name = '0003_backups' RETURNING app, name")
    yield
    for app, name in rows:
        owner(f"INSERT INTO django_migrations (app, name, applied) VALUES ('{app}', '{name}', now())")
    connections["owner"].close()


def test_session_p61_migrate_refuses_without_a_fresh_backup(
    committed_world: World, settings: Settings, pending: None
) -> None:
    settings.DEVELOPMENT = False
    fake = ("migrate", "operations", "--fake", "--verbosity=0")
    with pytest.raises(CommandError, match="no backup of the last 15 minutes"):
        call_command(*fake)
    call_command("migrate", "--plan", "--verbosity=0")
    settings.DEVELOPMENT = True
    backup = create_backup(kind="pre_upgrade")
    settings.DEVELOPMENT = False
    rewritten(backup, lambda m: m.update(createdAt=(timezone.now() - timedelta(minutes=16)).isoformat()))
    with pytest.raises(CommandError, match="no backup of the last 15 minutes"):
        call_command(*fake)
    with pytest.raises(CommandError, match=r"Nothing was migrated: .* encrypted"):
        call_command(*fake, "--backup-first")
    settings.DEVELOPMENT = True
    call_command(*fake, "--backup-first", stdout=StringIO())
    assert BackupRecord.objects.filter(kind="pre_upgrade").count() == 2
    settings.DEVELOPMENT = False
    call_command("migrate", "--verbosity=0")  # nothing is pending: nothing is asked


def test_session_p61_an_empty_database_migrates(settings: Settings, pending: None) -> None:
    settings.DEVELOPMENT = False
    call_command("migrate", "operations", "--fake", "--verbosity=0")


def test_prune_keeps_the_newest_good_one_and_foreign_files(committed_world: World, place: Path) -> None:
    place.mkdir()
    now = timezone.now()
    made = {}
    for days, kind in ((20, "daily"), (9, "daily"), (8, "pre_upgrade"), (8, "pre_restore"), (6, "manual")):
        path = place / f"leadengine_{kind}_{now - timedelta(days=days):%Y%m%d_%H%M%S}.dump"
        path.write_bytes(b"x")
        moment = (now - timedelta(days=days)).isoformat()
        manifest = {"format": 1, "part": "whole", "withoutMessages": False, "createdAt": moment}
        manifest_of(path).write_text(json.dumps(manifest))
        made[days, kind] = path
        verified = now if days == 9 else None
        BackupRecord.objects.create(kind=kind, path=str(path), sha256="", bytes=1, verified_at=verified)
    for name in ("notes.txt", "leadengine_daily_20200101_000000.dump.bak", "leadengine_weekly_20200101_000000.dump"):
        (place / name).write_bytes(b"mine")
    done = command("backup_prune", "--keep-days", "7")
    gone = {made[20, "daily"].name, made[8, "pre_upgrade"].name, made[8, "pre_restore"].name}
    assert set(done["deleted"]) == gone
    left = {made[9, "daily"], made[6, "manual"]}
    assert {Path(row.path) for row in BackupRecord.objects.filter(deleted_at=None)} == left
    names = {each.name for each in place.iterdir()}
    assert names == {each.name for path in left for each in (path, manifest_of(path))} | {
        "notes.txt", "leadengine_daily_20200101_000000.dump.bak", "leadengine_weekly_20200101_000000.dump",
    }  # fmt: skip
