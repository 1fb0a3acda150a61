"""`manage.py up` from end to end, with stand-ins for the product's own commands."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import psycopg
import pytest

from leadengine.embedded.environment import read_env
from leadengine.embedded.processes import identity, wait_until
from tests.embedded import stand_in
from tests.embedded.conftest import directory
from tests.embedded.stand_in import clean_environment
from tests.embedded.test_postgres import ask


class Up:
    """A running `up`."""

    def __init__(self, product: Path, *words: str, environ: dict[str, str] | None = None) -> None:
        self.data_dir = product / ".data"
        self.log = product / "terminal"
        self.file = self.log.open("w", encoding="utf-8")
        self.process = subprocess.Popen(
            [sys.executable, "manage.py", "up", "--port", "0", *words],
            cwd=product,
            env={**clean_environment(), "COMPAT_PORTS": "", **(environ or {})},
            stdout=self.file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    @property
    def said(self) -> str:
        """All that it showed."""
        return self.log.read_text(encoding="utf-8")

    @property
    def env(self) -> dict[str, str]:
        """run.env."""
        return read_env(self.data_dir / "run.env")

    def children(self) -> dict[str, int]:
        """Names and numbers of the processes that it supervises now."""
        entries = json.loads((self.data_dir / "processes.json").read_text(encoding="utf-8"))
        return {name: entry[0] for name, entry in entries.items() if identity(entry[0])}

    def wait_ready(self) -> None:
        """Return when it says that it is ready."""
        wait_until(lambda: "\nready http" in self.said or self.process.poll() is not None, 60)
        assert f"\nready {self.env['BASE_URL']}\n" in self.said, self.said

    def end(self, number: signal.Signals = signal.SIGINT) -> float:
        """Signal it and return how many seconds it took to end everything."""
        started = time.monotonic()
        self.process.send_signal(number)
        self.process.wait(15)
        return time.monotonic() - started


@contextmanager
def up(product: Path, *words: str, environ: dict[str, str] | None = None) -> Iterator[Up]:
    running = Up(product, *words, environ=environ)
    try:
        running.wait_ready()
        yield running
    finally:
        if running.process.poll() is None:
            running.end()
        running.file.close()


def run(product: Path, *words: str, environ: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run `up` to its end."""
    return subprocess.run(
        [sys.executable, "manage.py", "up", "--port", "0", *words],
        cwd=product,
        env={**clean_environment(), "COMPAT_PORTS": "", **(environ or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


@pytest.fixture(scope="module")
def started() -> Iterator[Path]:
    """A product that has been started and ended once."""
    with directory() as path:
        root = stand_in.build(path / "clone")
        assert run(root, "--once-ready", "exit 0").returncode == 0
        yield root


@pytest.fixture
def product(started: Path, reachable: Path) -> Path:
    """A product of its own for a test, on its second start: the first takes seconds."""
    subprocess.run(["cp", "-a", started, reachable], check=True)
    return reachable / "clone"


@pytest.fixture
def fresh(reachable: Path) -> Path:
    """A product that has never been started."""
    return stand_in.build(reachable / "clone")


@pytest.fixture(scope="module")
def running() -> Iterator[Up]:
    """One `up` on its first start, for the tests that leave it as it was."""
    with directory() as path, up(stand_in.build(path / "clone"), "--workers", "2") as first:
        yield first


def test_first_start(running: Up) -> None:
    env = running.env
    assert int(urlopen(env["BASE_URL"], timeout=5).read()) == running.children()["web"]
    names = {"postgres", "valkey", "simulator", "web", "worker-1", "worker-2", "sender", "beat"}
    assert set(running.children()) == names
    assert ask(env["DATABASE_URL"], "SELECT current_user") == [("leadengine_app",)]
    assert ask(env["ADMIN_DATABASE_URL"], "SELECT current_user") == [("leadengine_owner",)]
    order = (running.data_dir / "order").read_text(encoding="utf-8").split("\n")
    assert order.index("seed_demo done") > max(order.index("migrate done"), order.index("collectstatic done"))


def test_terminal_shows_people_and_no_secret(running: Up) -> None:
    env = running.env
    assert env["DEMO_AGENT_EMAIL"] in running.said
    secret = [env[key] for key in env if key.endswith(("KEY", "SECRET", "TOKEN", "PASSWORD"))]
    assert not [value for value in [*secret, env["DATABASE_URL"], env["REDIS_URL"]] if value in running.said]


@pytest.mark.parametrize(
    ("name", "process", "words"),
    [
        ("migrate", "command", "migrate"),
        ("collectstatic", "command", "collectstatic --noinput"),
        ("seed_demo", "command", "seed_demo"),
        ("worker-1", "worker", "worker --name worker-1"),
        ("sender", "sender", "worker --name sender --queues whatsapp.send.messages"),
        ("beat", "beat", "beat"),
        ("simulator", "simulator", None),
        ("web", "web", None),
    ],
)
def test_what_each_process_is_told(running: Up, name: str, process: str, words: str | None) -> None:
    told = json.loads((running.data_dir / f"seen-{name}.json").read_text(encoding="utf-8"))
    assert told["LEADENGINE_PROCESS"] == process
    assert {key: told[key] for key in running.env} == running.env
    counts = process in {"web", "worker", "sender", "beat"}
    assert told.get("PROMETHEUS_MULTIPROC_DIR") == (str(running.data_dir / "metrics") if counts else None)
    assert "LEADENGINE_PARENT" not in told
    if name == "simulator":
        port = running.env["WHATSAPP_BROKER_URL"].rpartition(":")[2]
        webhook = f"{running.env['BASE_URL']}/api/integrations/whatsapp/webhook"
        state = running.data_dir / "simulator.json"
        words = f"simulate_broker --port {port} --webhook-url {webhook} --profile demo --state-file {state}"
    assert told.get("ARGV") == words


def test_one_up_per_data_directory(running: Up) -> None:
    second = run(running.data_dir.parent)
    assert second.returncode == 1
    assert f"is in use by `manage.py up` (process {running.process.pid})" in second.stderr
    assert second.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["postgres", "valkey", "simulator", "web", "worker-1", "sender", "beat"])
def test_killed_child_comes_back_where_it_was(running: Up, name: str) -> None:
    pid = running.children()[name]
    os.kill(pid, signal.SIGKILL)
    assert wait_until(lambda: running.children().get(name, pid) != pid, 10)
    assert f"{name.ljust(13)}| was killed by SIGKILL: starting it again in" in running.said
    if name == "web":
        assert int(urlopen(running.env["BASE_URL"], timeout=20).read()) == running.children()["web"]
    if name == "postgres":
        assert wait_until(lambda: can_ask(running.env["DATABASE_URL"]), 10)


def test_later_starts_do_what_is_new_only(product: Path) -> None:
    env = read_env(product / ".data" / "run.env")
    with up(product) as second:
        moving = {"BASE_URL", "PUBLIC_BASE_URL", "PORT", "LEADENGINE_DATA_DIR"}
        assert {key: second.env[key] for key in env if key not in moving} == {
            key: env[key] for key in env if key not in moving
        }
        for done in ("migrated", "demo data"):
            assert done not in second.said
        assert "static files" in second.said  # its place is another in a copied tree
    (product / "leadengine" / "stand_in" / "migrations").mkdir()
    (product / "leadengine" / "stand_in" / "migrations" / "0001_initial.py").touch()
    third = run(product, "--once-ready", "exit 0").stdout
    assert "migrated" in third
    assert "static files" not in third


def test_once_ready_ends_everything_with_its_code(product: Path) -> None:
    done = run(product, "--once-ready", 'echo "asked $BASE_URL"; exit 7')
    assert done.returncode == 7
    env = read_env(product / ".data" / "run.env")
    assert f"asked {env['BASE_URL']}\n" in done.stdout
    assert done.stderr == ""
    with pytest.raises(URLError):
        urlopen(env["BASE_URL"], timeout=5)
    with pytest.raises(psycopg.OperationalError):
        ask(env["DATABASE_URL"], "SELECT 1")


def test_ctrl_c_ends_all_in_time_and_order(product: Path) -> None:
    with up(product) as running:
        pids = running.children()
        (running.data_dir / "order").unlink()
        assert running.end() < 10
        assert running.process.returncode == 0
        assert not [name for name, pid in pids.items() if identity(pid)]
        order = (running.data_dir / "order").read_text(encoding="utf-8").split("\n")
        assert order[0] == "beat ended"
        assert set(order[1:3]) == {"worker-1 ended", "sender ended"}
        assert order[3] == "simulator ended"


def can_ask(url: str) -> bool:
    try:
        return bool(ask(url, "SELECT 1"))
    except psycopg.OperationalError:
        return False


def test_next_start_after_a_kill_is_clean(product: Path) -> None:
    with up(product) as killed:
        ask(killed.env["ADMIN_DATABASE_URL"], "CREATE TABLE kept (id int)")
        pids, env = killed.children(), killed.env
        killed.process.kill()
        killed.process.wait()
        with up(product) as running:
            assert not [name for name, pid in pids.items() if identity(pid)]
            assert running.env["DATABASE_URL"] == env["DATABASE_URL"]
            assert ask(env["DATABASE_URL"], "SELECT count(*) FROM kept") == [(0,)]


def test_taken_port_is_a_sentence_and_compat_ports_are_not_required(product: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.create_server(("127.0.0.1", 0)) as lent:
        port, free = taken.getsockname()[1], lent.getsockname()[1]
        busy = run(product, "--port", str(port))
        assert (busy.returncode, busy.stderr.count("\n")) == (1, 1)
        assert f"Cannot listen on 127.0.0.1:{port}" in busy.stderr
        lent.close()
        with up(product, environ={"COMPAT_PORTS": f"{port},{free}"}) as running:
            assert f"not on {port}: in use" in running.said
            assert running.env["COMPAT_PORTS"] == str(free)
            assert int(urlopen(f"http://127.0.0.1:{free}", timeout=5).read()) == running.children()["web"]


def test_refused_variable_is_a_sentence(fresh: Path) -> None:
    refused = run(fresh, environ={"WHATSAPP_MODE": "http"})
    assert (refused.returncode, refused.stderr) == (1, "WHATSAPP_MODE is set: remove it.\n")
    assert not (fresh / ".data" / "postgres").exists()


def test_servers_of_others_are_used(fresh: Path) -> None:
    foreign = {
        "DATABASE_URL": "postgresql://app@db.example.test/desk",
        "ADMIN_DATABASE_URL": "postgresql://owner@db.example.test/desk",
        "REDIS_URL": "redis://redis.example.test/0",
        "WHATSAPP_BROKER_URL": "http://broker.example.test",
        "API_KEY": "k" * 40,
    }
    with up(fresh, environ=foreign) as running:
        assert set(running.children()) == {"web", "worker-1", "sender", "beat"}
        assert {key: running.env[key] for key in foreign} == foreign
        assert not (running.data_dir / "postgres").exists()
        assert not (running.data_dir / "valkey").exists()


def test_options_that_leave_things_out(fresh: Path) -> None:
    with up(fresh, "--no-demo", "--no-simulator", "--web", "2") as running:
        assert set(running.children()) == {"postgres", "valkey", "web-1", "web-2", "worker-1", "sender", "beat"}
        assert not [key for key in running.env if key.startswith("DEMO_") or key == "WHATSAPP_BROKER_URL"]
        assert "seed_demo done" not in (running.data_dir / "order").read_text(encoding="utf-8")


@pytest.mark.parametrize("step", ["migrate", "seed_demo", "simulator"])
def test_step_that_fails_ends_the_start_with_its_words(fresh: Path, step: str) -> None:
    (fresh / ".data").mkdir()
    (fresh / ".data" / f"break-{step}").touch()
    failed = run(fresh)
    assert failed.returncode == 1
    assert f"{step} is broken" in failed.stdout + failed.stderr
    assert "Traceback" not in failed.stdout + failed.stderr
    assert "\nready" not in failed.stdout
    if step == "migrate":  # what has failed once is not taken for done
        (fresh / ".data" / f"break-{step}").unlink()
        assert "migrated" in run(fresh, "--once-ready", "exit 0").stdout


def test_web_process_that_dies_at_once_ends_the_start(product: Path) -> None:
    (product / "leadengine" / "asgi.py").write_text("raise SystemExit('no application')\n")
    failed = run(product)
    assert failed.returncode == 1
    assert "no application" in failed.stdout
    assert failed.stderr.startswith("The web process does not become ready")
