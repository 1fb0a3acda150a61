"""The two protected tables, and the walls around them (spec/sessions.md sections 1, 4 and 5)."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from django.conf import settings as django_settings
from django.db import DatabaseError, connection, connections, transaction
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.operations import (
    AlterField,
    AlterModelTable,
    DeleteModel,
    RemoveField,
    RenameField,
    RenameModel,
    RunSQL,
    SeparateDatabaseAndState,
)
from django.db.migrations.operations.base import Operation
from django.db.models import CharField
from django.db.utils import ProgrammingError
from pytest_django.fixtures import Settings

from leadengine.accounts.models import User
from leadengine.accounts.scopes import ScopeMissing, owner_scope, service_scope, tenant_scope
from leadengine.errors import ConfigurationError
from leadengine.operations.starting import refuse_broken_wall
from tests.api import by_cookie, send
from tests.conftest import ROOT, World
from tests.environment import NAME, SERVER, url
from tests.walls import without_guards
from tickets.models import Queue
from whatsapp.models import SessionEvent, WhatsAppAtendimento, WhatsAppSession
from whatsapp.services.persistence import saving
from whatsapp.strict import UpsertRefused, WriteOutsidePersist

SESSIONS, ATENDIMENTOS = TABLES = ("whatsapp_sessions", "whatsapp_atendimentos")
Column = tuple[str, str, int | None, str, str | None]
NOW, TIME = "now()", "timestamp with time zone"
# Copied from seed 002: (name, type, length, nullable, default).
FROZEN: dict[str, list[Column]] = {
    SESSIONS: [
        ("id", "uuid", None, "NO", "gen_random_uuid()"),
        ("owner_id", "uuid", None, "NO", None),
        ("session_name", "character varying", 255, "NO", None),
        ("status", "character varying", 50, "NO", "'disconnected'::character varying"),
        ("connection_id", "character varying", 255, "NO", None),
        ("qr_code", "text", None, "YES", None),
        ("phone_number", "character varying", 20, "YES", None),
        ("whatsapp_id", "character varying", 255, "YES", None),
        ("whatsapp_info", "jsonb", None, "YES", None),
        ("connected_at", TIME, None, "YES", None),
        ("disconnected_at", TIME, None, "YES", None),
        ("created_at", TIME, None, "YES", NOW),
        ("updated_at", TIME, None, "YES", NOW),
        ("duplicate_reason", "character varying", 100, "YES", None),
    ],
    ATENDIMENTOS: [
        ("id", "uuid", None, "NO", "gen_random_uuid()"),
        ("chat_id", "character varying", 255, "NO", None),
        ("status", "character varying", 50, "NO", "'ATIVO'::character varying"),
        ("owner_id", "uuid", None, "NO", None),
        ("connection_id", "character varying", 255, "NO", None),
        ("created_at", TIME, None, "YES", NOW),
        ("updated_at", TIME, None, "YES", NOW),
    ],
}


def ask(sql: str, *parameters: Any) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        return cursor.fetchall() if cursor.description else cursor.rowcount


def columns_of(table: str) -> list[Column]:
    found = ask(
        """SELECT column_name::text, data_type::text, character_maximum_length, is_nullable::text, column_default::text
           FROM information_schema.columns WHERE table_schema = 'public' AND table_name = %s""",
        table,
    )
    return [tuple(row) for row in found]


def differences(frozen: Sequence[Column], actual: Sequence[Column]) -> set[str]:
    """What breaks the frozen list: a column that is missing or other, and an added one that an INSERT must name."""
    required = {
        name for name, _, _, nullable, default in set(actual) - set(frozen) if (nullable, default) == ("NO", None)
    }
    return {column[0] for column in set(frozen) - set(actual)} | required


# --- The frozen columns ------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_session_p02_columns_of_sessions_are_as_the_seed_has_them() -> None:
    assert differences(FROZEN[SESSIONS], columns_of(SESSIONS)) == set()


@pytest.mark.django_db
def test_session_p03_columns_of_atendimentos_are_as_the_seed_has_them() -> None:
    assert differences(FROZEN[ATENDIMENTOS], columns_of(ATENDIMENTOS)) == set()


@pytest.mark.parametrize("table", TABLES)
def test_session_p02_and_p03_a_missing_column_type_or_default_would_be_noticed(table: str) -> None:
    frozen = FROZEN[table]
    extra: Column = ("extra", "text", None, "YES", None)
    assert differences(frozen, [*frozen, extra, ("more", "integer", None, "NO", "0")]) == set()
    assert differences(frozen, [*frozen, ("must", "text", None, "NO", None)]) == {"must"}
    for index, (name, kind, length, nullable, default) in enumerate(frozen):
        others: list[list[Column]] = [
            [], [(name, "bytea", length, nullable, default)], [(name, kind, 7, nullable, default)],
            [(name, kind, length, nullable, "'other'")],
            [(name, kind, length, "NO" if nullable == "YES" else "YES", default)],
        ]  # fmt: skip
        for other in others:
            assert name in differences(frozen, [*frozen[:index], *other, *frozen[index + 1 :]]), (name, other)


def test_session_p14_raw_insert_of_the_required_columns_of_a_session_works_in_a_scope(world: World) -> None:
    sql = (
        "INSERT INTO whatsapp_sessions (owner_id, session_name, connection_id) VALUES (%s, 'Nova', 'nova') RETURNING id"
    )
    with owner_scope(world.agent), saving():
        session = WhatsAppSession.objects.get(pk=ask(sql, world.agent.pk)[0][0])
    assert (session.tenant_id, session.owner_id, session.status) == (world.ipe.pk, world.agent.pk, "disconnected")
    assert (session.session_name, session.connection_id) == ("Nova", "nova")
    assert session.created_at is not None
    assert session.updated_at is not None
    nothing = ("qr_code", "phone_number", "whatsapp_id", "whatsapp_info", "connected_at", "disconnected_at")
    assert {getattr(session, name) for name in (*nothing, "duplicate_reason")} == {None}
    with without_guards(), pytest.raises(DatabaseError), transaction.atomic():
        ask(sql, world.agent.pk)  # no scope gives it a tenant


def test_session_p15_raw_insert_of_the_required_columns_of_an_atendimento_works_in_a_scope(world: World) -> None:
    sql = "INSERT INTO whatsapp_atendimentos (chat_id, owner_id, connection_id) VALUES ('c', %s, 'nova') RETURNING id"
    with owner_scope(world.agent), saving():
        row = WhatsAppAtendimento.objects.get(pk=ask(sql, world.agent.pk)[0][0])
    assert (row.tenant_id, row.owner_id, row.chat_id, row.status) == (world.ipe.pk, world.agent.pk, "c", "ATIVO")
    assert row.created_at is not None


# --- Owners ------------------------------------------------------------------------------------------------------


def test_session_p09_a_row_has_an_owner_and_nobody_names_another(world: World) -> None:
    for table in TABLES:
        owner = next(column for column in columns_of(table) if column[0] == "owner_id")
        assert owner == ("owner_id", "uuid", None, "NO", None)
    with owner_scope(world.agent), saving():
        mine = WhatsAppSession.objects.create(
            tenant=world.ipe, owner=world.agent, session_name="Minha", connection_id="minha"
        )
        for owner_id in (None, world.agent2.pk):
            with pytest.raises(DatabaseError), transaction.atomic():
                ask(
                    "INSERT INTO whatsapp_sessions (owner_id, session_name, connection_id) VALUES (%s, 'x', 'x')",
                    owner_id,
                )
    names = {"X-User-Id": str(world.agent.pk), "X-Owner-Id": str(world.agent.pk), "X-Tenant-Id": str(world.ipe.pk)}
    for stranger in (world.agent2, world.outsider):
        client = by_cookie(stranger)
        answer = client.get("/api/integrations/whatsapp/instances", {"ownerId": str(world.agent.pk)}, headers=names)
        assert answer.status_code == 200
        assert str(mine.pk) not in answer.content.decode()
        assert client.get(f"/api/integrations/whatsapp/instances/{mine.pk}", headers=names).status_code == 404
    assert str(mine.pk) in by_cookie(world.agent).get("/api/integrations/whatsapp/instances").content.decode()


def test_session_p10_without_a_scope_nothing_is_seen_and_both_tables_are_forced(world: World) -> None:
    with service_scope("test"), saving():
        WhatsAppAtendimento.objects.create(
            tenant=world.ipe, owner=world.admin, connection_id=world.line.connection_id, chat_id="c"
        )
    forced = "SELECT relrowsecurity, relforcerowsecurity FROM pg_class WHERE oid = %s::regclass"
    with psycopg.connect(url("leadengine_owner"), autocommit=True) as owner:
        for table in TABLES:
            with service_scope("test"):
                assert ask(f"SELECT count(*) FROM {table}")[0][0] > 0
            with without_guards():
                assert ask(f"SELECT current_user::text, (SELECT count(*) FROM {table})") == [("leadengine_app", 0)]
                assert ask(f"UPDATE {table} SET status = status") == 0
            assert ask(forced, table) == [(True, True)]
            assert owner.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,), "nor does the owner"


def test_session_n03_a_child_of_a_foreign_session_is_refused(world: World) -> None:
    def event(session: WhatsAppSession, tenant: Any) -> None:
        SessionEvent.objects.create(tenant=tenant, session=session, new_status="x", source="api")

    with owner_scope(world.admin):
        event(world.line, world.ipe)
    for scope, tenant, session in (
        (owner_scope(world.agent), world.ipe, world.line),  # of another owner
        (tenant_scope(world.ipe.pk), world.ipe, world.foreign_line),  # of another tenant
        (tenant_scope(world.ipe.pk), world.cedro, world.foreign_line),
    ):
        with scope, pytest.raises(ProgrammingError, match="row-level security"), transaction.atomic():
            event(session, tenant)
    with service_scope("test"):
        assert SessionEvent.objects.filter(new_status="x").count() == 1


# --- Migrations --------------------------------------------------------------------------------------------------

_TABLE = r'"?(?:whatsapp_sessions|whatsapp_atendimentos)"?'
FORBIDDEN = {
    "p16": rf"ALTER TABLE (?:ONLY )?{_TABLE}[^;]*\bDROP COLUMN|DROP TABLE [^;]*{_TABLE}",
    "p17": rf'ALTER TABLE (?:ONLY )?{_TABLE}[^;]*ALTER COLUMN "?(?:connection_id|owner_id)"? (?:SET DATA )?TYPE',
    "p18": r"DISABLE ROW LEVEL SECURITY|NO FORCE ROW LEVEL SECURITY",
}
_MODELS = {"whatsappsession", "whatsappatendimento"}
_KEPT_TYPE = {"connection_id", "owner", "owner_id"}


def offence(operation: Operation) -> str:
    """Which of the three lines an operation breaks; the SQL of RunSQL in both directions."""
    model = getattr(operation, "model_name", getattr(operation, "name", "")).lower()
    field = getattr(operation, "name", "")
    match operation:
        case RunSQL():
            text = re.sub(r"\s+", " ", f"{operation.sql}; {operation.reverse_sql}")
            return next((line for line, pattern in FORBIDDEN.items() if re.search(pattern, text, re.I)), "")
        case SeparateDatabaseAndState():
            return next(filter(None, map(offence, operation.database_operations)), "")
        case RemoveField() | RenameField() | DeleteModel() | RenameModel() | AlterModelTable() if model in _MODELS:
            return "p16"
        case AlterField() if model in _MODELS and field in _KEPT_TYPE:
            return "p17"
    return ""


def test_session_p16_and_p17_and_p18_no_migration_drops_or_changes_a_column_or_opens_a_table() -> None:
    migrations = MigrationLoader(None).disk_migrations
    assert {("whatsapp", "0001_initial"), ("whatsapp", "0002_walls"), ("leads", "0001_initial")} <= migrations.keys()
    broken = {
        f"{app}.{name}: {found}"
        for (app, name), migration in migrations.items()
        for operation in migration.operations
        if (found := offence(operation))
    }
    assert broken == set()


@pytest.mark.parametrize(
    ("line", "operation"),
    [
        ("p16", RemoveField("WhatsAppSession", "qr_code")),
        ("p16", RenameField("whatsappatendimento", "chat_id", "chat")),
        ("p16", DeleteModel("WhatsAppSession")),
        ("p16", RunSQL('ALTER TABLE "whatsapp_sessions" DROP COLUMN "qr_code" CASCADE;')),
        ("p16", RunSQL("SELECT 1", reverse_sql="ALTER TABLE whatsapp_atendimentos\n ADD x int, DROP COLUMN chat_id")),
        ("p16", RunSQL('DROP TABLE "whatsapp_sessions" CASCADE')),
        ("p17", AlterField("WhatsAppSession", "connection_id", CharField(max_length=300))),
        ("p17", AlterField("whatsappatendimento", "owner", CharField(max_length=300))),
        ("p17", RunSQL('ALTER TABLE whatsapp_sessions ALTER COLUMN "owner_id" TYPE integer USING 1')),
        ("p18", RunSQL("ALTER TABLE leads_contact DISABLE ROW LEVEL SECURITY")),
        ("p18", SeparateDatabaseAndState([RunSQL(["alter table leads_contact no force row level security"])])),
        ("", RunSQL("ALTER TABLE whatsapp_sessions ADD COLUMN extra text")),
        ("", AlterField("WhatsAppSession", "metadata", CharField(max_length=300))),
        ("", RemoveField("GapFill", "owner")),
    ],
)
def test_session_p16_and_p17_and_p18_a_migration_that_did_would_be_noticed(line: str, operation: Operation) -> None:
    assert offence(operation) == line


# --- Strict mode -------------------------------------------------------------------------------------------------


def test_session_p19_a_write_of_either_table_outside_persist_raises(world: World) -> None:
    atendimento = WhatsAppAtendimento(
        tenant=world.ipe, owner=world.admin, connection_id=world.line.connection_id, chat_id="c"
    )
    with service_scope("test"):
        writes: list[Callable[[], Any]] = [
            world.line.save, atendimento.save,
            lambda: WhatsAppSession.objects.update(strikes=1),
            lambda: WhatsAppSession.objects.bulk_create([WhatsAppSession(tenant=world.ipe, owner=world.admin)]),
            lambda: ask("UPDATE whatsapp_atendimentos SET notes = ''"),
            lambda: ask("WITH a AS (SELECT 1) INSERT INTO whatsapp_sessions (owner_id) SELECT NULL"),
        ]  # fmt: skip
        for write in writes:
            with pytest.raises(WriteOutsidePersist), transaction.atomic():
                write()
        assert not WhatsAppAtendimento.objects.exists()
        with saving():
            world.line.save()
            atendimento.save(force_insert=True)


def test_session_p19_a_query_without_a_scope_raises(world: World) -> None:
    queries: list[Callable[[], Any]] = [
        Queue.objects.count, lambda: list(WhatsAppSession.objects.all()),
        lambda: Queue.objects.update(name="x"),
        lambda: ask("SELECT 1 FROM accounts_user u JOIN leads_contact c ON true"),
    ]  # fmt: skip
    for query in queries:
        with pytest.raises(ScopeMissing), transaction.atomic():
            query()
    assert User.objects.count() == 6, "found by e-mail before anybody knows the tenant"
    with tenant_scope(world.ipe.pk):
        assert Queue.objects.count() == 1


@pytest.mark.parametrize("ignoring", [True, False])
def test_an_upsert_of_a_protected_table_raises(world: World, ignoring: bool) -> None:
    row = WhatsAppSession(tenant=world.ipe, owner=world.admin, session_name="x", connection_id="x")
    how: dict[str, Any] = {"ignore_conflicts": True} if ignoring else {
        "update_conflicts": True, "unique_fields": ["connection_id"], "update_fields": ["session_name"],
    }  # fmt: skip
    with service_scope("test"), saving(), pytest.raises(UpsertRefused), transaction.atomic():
        WhatsAppSession.objects.bulk_create([row], **how)


# --- One connection, several people ------------------------------------------------------------------------------


@contextmanager
def one_pooled_connection() -> Iterator[None]:
    """A pool of a single connection, as web processes have one of many: whoever is next gets that one."""
    stored = connections.settings["default"]
    before = {name: stored[name] for name in ("OPTIONS", "CONN_MAX_AGE")}
    stored |= {"OPTIONS": {"pool": {"min_size": 1, "max_size": 1, "timeout": 5}}, "CONN_MAX_AGE": 0}
    try:
        yield
    finally:
        in_thread(lambda: connection.close_pool())  # type: ignore[attr-defined]
        stored |= before


def in_thread(work: Callable[[], Any]) -> Any:
    """Like a request: a thread with a connection wrapper of its own, which gives the connection back."""
    results: list[Any] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:
            results.append(error)
        finally:
            connection.close()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if isinstance(results[0], BaseException):
        raise results[0]
    return results[0]


@pytest.mark.django_db(transaction=True)
def test_session_n02_two_requests_on_one_pooled_connection_do_not_meet(committed_world: World) -> None:
    world = committed_world
    with service_scope("test"), saving():
        own = WhatsAppSession.objects.create(tenant=world.ipe, owner=world.agent, session_name="A", connection_id="a-1")
    clients = {user.name: by_cookie(user) for user in (world.agent, world.agent2)}

    def request(user: User) -> tuple[int, list[Any]]:
        status, body = send(clients[user.name], "get", "/api/integrations/whatsapp/instances")
        assert status == 200
        pid = ask("SELECT pg_backend_pid()")[0][0]
        return pid, re.findall(r'"(a-1)"', str(body).replace("'", '"'))

    def fail() -> int:
        try:
            with owner_scope(world.agent):
                pid: int = ask("SELECT pg_backend_pid()")[0][0]
                ask("SELECT nonsense")
        except DatabaseError:
            return pid
        raise AssertionError

    def bare() -> tuple[int, Any]:
        with without_guards():
            seen = ask(
                """SELECT pg_backend_pid(), current_user::text, coalesce(current_setting('app.tenant_id', true), ''),
                       coalesce(current_setting('app.owner_id', true), ''), (SELECT count(*) FROM whatsapp_sessions)"""
            )[0]
        return seen[0], seen[1:]

    connection.close()
    with one_pooled_connection():
        first = in_thread(lambda: request(world.agent))
        second = in_thread(lambda: request(world.agent2))
        failed = in_thread(fail)
        nobody = in_thread(bare)
        third = in_thread(lambda: request(world.agent2))
    assert {first[0], second[0], failed, nobody[0], third[0]} == {first[0]}, "it was one connection all the time"
    assert (bool(first[1]), second[1], third[1]) == (True, [], []), own
    assert nobody[1] == ("leadengine_app", "", "", 0)


# --- Starting ----------------------------------------------------------------------------------------------------

REFUSALS = [
    (SERVER._replace(path=f"/{NAME}").geturl(), "a superuser"), (url("leadengine_backup"), "BYPASSRLS"),
    (url("leadengine_owner"), "owns the tables"),
]  # fmt: skip


@pytest.mark.django_db
@pytest.mark.parametrize(("address", "cause"), REFUSALS, ids=["superuser", "bypassrls", "owner"])
def test_session_n01_nobody_starts_as_one_whom_the_wall_does_not_bind(
    settings: Settings, address: str, cause: str
) -> None:
    settings.DATABASE_URL = address
    with pytest.raises(ConfigurationError, match=rf"{cause}.*set it to the role leadengine_app that deploy/postgres"):
        refuse_broken_wall()


@pytest.mark.django_db
def test_session_n01_the_process_ends_with_that_sentence() -> None:
    env = {**os.environ, "LEADENGINE_PROCESS": "beat", "DATABASE_URL": url("leadengine_owner")}
    run = subprocess.run(
        [sys.executable, "manage.py", "beat"],
        env=env,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 1
    assert (
        run.stderr.strip()
        .splitlines()[-1]
        .startswith("DATABASE_URL connects as leadengine_owner, which owns the tables")
    )
    assert "Traceback" not in run.stderr


@pytest.mark.django_db(transaction=True)
def test_session_n01_nobody_starts_before_a_broken_wall(committed_world: World) -> None:
    refuse_broken_wall()
    with psycopg.connect(url("leadengine_owner"), autocommit=True) as owner:
        policy = "tenant_id = (SELECT NULLIF(current_setting('app.tenant_id', true), '')::uuid)"
        for breaking, mending, sentence in (
            ("ALTER TABLE leads_lead DISABLE ROW LEVEL SECURITY", "ALTER TABLE leads_lead ENABLE ROW LEVEL SECURITY",
             "Row level security is off for the table leads_lead: run"),
            ("ALTER TABLE leads_lead NO FORCE ROW LEVEL SECURITY", "ALTER TABLE leads_lead FORCE ROW LEVEL SECURITY",
             "Row level security is off for the table leads_lead: run"),
            ("DROP POLICY leads_lead_scope ON leads_lead",
             f"CREATE POLICY leads_lead_scope ON leads_lead USING ({policy}) WITH CHECK ({policy})",
             "leads_lead has lost its policy"),
        ):  # fmt: skip
            owner.execute(breaking)
            try:
                with pytest.raises(ConfigurationError, match=sentence):
                    refuse_broken_wall()
            finally:
                owner.execute(mending)
    refuse_broken_wall()


@pytest.mark.django_db(transaction=True)
def test_session_n01_what_could_not_be_seen_at_the_start_is_seen_with_the_first_connection(
    committed_world: World, settings: Settings
) -> None:
    good, settings.DATABASE_URL = django_settings.DATABASE_URL, url("leadengine_app").replace(f":{SERVER.port}", ":9")
    refuse_broken_wall()
    settings.DATABASE_URL = good
    stored = connection.settings_dict
    names = {name: stored[name] for name in ("USER",)}
    connection.close()
    stored["USER"] = "leadengine_owner"
    try:
        for _ in range(2):
            with pytest.raises(ConfigurationError, match="owns the tables"):
                ask("SELECT 1")
        assert connection.connection is None
    finally:
        stored |= names
    assert ask("SELECT current_user::text") == [("leadengine_app",)]
    connection.close()
    stored["USER"] = "leadengine_owner"  # it has looked once: this costs later connections nothing
    try:
        assert ask("SELECT current_user::text") == [("leadengine_owner",)]
    finally:
        connection.close()
        stored |= names
