"""deploy/postgres/roles.sql, on the embedded server and by hand."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from leadengine.embedded.environment import open_data_dir
from leadengine.embedded.postgres import ROLES, EmbeddedPostgres
from tests.embedded.conftest import running
from tests.embedded.test_postgres import ask

# The name itself may stand in roles.sql and in accounts/scopes.py only (spec/sessions.md section 5).
SERVICE = "leadengine_" + "service"
PASSWORDS = {f"LEADENGINE_{role}_PASSWORD": f"pass-{role}" for role in ("OWNER", "APP", "BACKUP")}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """One embedded server for this module, with one table under forced row level security."""
    data_dir = open_data_dir(tmp_path_factory.mktemp("roles"))
    with asyncio.Runner() as runner:
        servers = running(data_dir, postgres=True)
        postgres = runner.run(servers.__aenter__()).postgres
        ask(
            postgres.url("owner"),
            """CREATE TABLE things (id serial, tenant text);
               INSERT INTO things (tenant) VALUES ('a'), ('b');
               ALTER TABLE things ENABLE ROW LEVEL SECURITY;
               ALTER TABLE things FORCE ROW LEVEL SECURITY;
               CREATE POLICY wall ON things USING (tenant = current_setting('app.tenant', true))""",
        )
        yield postgres
        runner.run(servers.__aexit__(None, None, None))
        postgres.remove_outside()


def psql(server: EmbeddedPostgres, url: str, *words: str, environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [str(server.source / "psql"), "-X", "-q", url, *words, "-f", str(ROLES)]
    return subprocess.run(
        command, env={"PATH": os.defpath, **environ}, cwd=Path("/"), capture_output=True, text=True, check=False
    )


def test_attributes(server: EmbeddedPostgres) -> None:
    columns = "rolname, rolcanlogin, rolinherit, rolsuper, rolbypassrls, rolcreatedb, rolcreaterole"
    rows = ask(server.url("app"), f"SELECT {columns} FROM pg_roles WHERE rolname LIKE 'leadengine%' ORDER BY 1")
    assert rows == [
        ("leadengine_app", True, False, False, False, False, False),
        ("leadengine_backup", True, True, False, True, False, False),
        ("leadengine_owner", True, True, False, False, True, False),  # for the scratch database of backup_verify
        (SERVICE, False, True, False, True, False, False),
    ]
    owner = "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = 'leadengine'"
    assert ask(server.url("app"), owner) == [("leadengine_owner",)]
    extensions = "SELECT extname, nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = extnamespace"
    assert {("unaccent", "public"), ("pg_trgm", "public")} <= set(ask(server.url("app"), extensions))


def test_app_has_the_service_role_only_when_it_asks(server: EmbeddedPostgres) -> None:
    with psycopg.connect(server.url("app"), autocommit=True) as connection:
        for privilege, expected in (("USAGE", False), ("MEMBER", True)):
            row = connection.execute("SELECT pg_has_role('leadengine_app', %s, %s)", [SERVICE, privilege]).fetchone()
            assert row == (expected,)
        assert connection.execute("SELECT count(*) FROM things").fetchone() == (0,)
        with connection.transaction():
            connection.execute(sql.SQL("SET LOCAL ROLE {}").format(sql.Identifier(SERVICE)))
            assert connection.execute("SELECT count(*) FROM things").fetchone() == (2,)
        assert connection.execute("SELECT current_user").fetchone() == ("leadengine_app",)
        assert connection.execute("SELECT count(*) FROM things").fetchone() == (0,)


FORBIDDEN = [
    "CREATE TABLE mine (id int)",
    "CREATE TEMPORARY TABLE mine (id int)",
    "TRUNCATE things",
    "ALTER TABLE things DISABLE ROW LEVEL SECURITY",
    "DROP TABLE things",
    "CREATE ROLE mine",
]


@pytest.mark.parametrize("role", ["leadengine_app", SERVICE])
@pytest.mark.parametrize("statement", FORBIDDEN)
def test_runtime_roles_may_not(server: EmbeddedPostgres, statement: str, role: str) -> None:
    with psycopg.connect(server.url("app")) as connection:
        connection.execute("SELECT set_config('role', %s, true)", [role])
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(sql.SQL(statement))


def test_app_may_not_become_the_owner(server: EmbeddedPostgres) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        ask(server.url("app"), "SET ROLE leadengine_owner")


def test_tables_of_the_owner_are_for_the_runtime_roles(server: EmbeddedPostgres) -> None:
    ask(server.url("owner"), "CREATE TABLE later (id serial, word text)")
    for role in ("none", SERVICE):
        with psycopg.connect(server.url("app")) as connection:
            connection.execute("SELECT set_config('role', %s, true)", [role])
            connection.execute("INSERT INTO later (word) VALUES ('x')")
            connection.execute("UPDATE later SET word = 'y'")
            assert connection.execute("DELETE FROM later RETURNING word").fetchall() == [("y",)]


def test_owner_is_behind_the_wall_too(server: EmbeddedPostgres) -> None:
    assert ask(server.url("owner"), "SELECT count(*) FROM things") == [(0,)]


def test_backup_reads_all_and_writes_nothing(server: EmbeddedPostgres) -> None:
    assert ask(server.url("backup"), "SELECT count(*) FROM things") == [(2,)]
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        ask(server.url("backup"), "INSERT INTO things (tenant) VALUES ('c')")
    command = [str(server.source / "pg_dump"), "--data-only", "--table=things", server.url("backup")]
    dump = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "\ta\n" in dump.stdout


def test_strangers_do_not_connect(server: EmbeddedPostgres) -> None:
    ask(server.url("postgres"), "CREATE ROLE stranger LOGIN PASSWORD 'x'")
    with pytest.raises(psycopg.OperationalError, match="CONNECT"):
        ask(f"postgresql://stranger:x@127.0.0.1:{server.port}/leadengine", "SELECT 1")


async def test_by_hand_twice_as_an_admin_who_is_no_superuser(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EmbeddedPostgres, "make_roles", lambda _: None)
    async with running(data_dir, postgres=True) as servers:
        server = servers.postgres
        ask(
            server.url("postgres"),
            """CREATE ROLE dba LOGIN CREATEROLE CREATEDB BYPASSRLS PASSWORD 'x';
               GRANT pg_read_all_data TO dba WITH ADMIN OPTION""",
        )
        admin = f"postgresql://dba:x@127.0.0.1:{server.port}/postgres"
        for _ in range(2):
            run = psql(server, admin, "-v", "database=desk", environ=PASSWORDS)
            assert run.returncode == 0, run.stderr
        desk = f"postgresql://leadengine_owner:pass-OWNER@127.0.0.1:{server.port}/desk"
        ask(desk, "CREATE TABLE made (id serial)")
        app = desk.replace("owner", "app").replace("OWNER", "APP")
        assert ask(app, "INSERT INTO made DEFAULT VALUES RETURNING id") == [(1,)]


def test_without_a_password_it_stops(server: EmbeddedPostgres) -> None:
    run = psql(server, server.url("postgres"), environ={k: v for k, v in PASSWORDS.items() if "APP" not in k})
    assert run.returncode == 3
    assert "LEADENGINE_APP_PASSWORD is not set" in run.stderr
