"""A running `manage.py up`, as chaos needs it: its processes to kill, its database to read, its broker's phones."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import redis
import requests
from celery import Celery

from leadengine.accounts.scopes import SERVICE, SET_SCOPE
from leadengine.embedded.environment import ROOT, read_env

_FOREIGN = ("DATABASE_", "ADMIN_DATABASE_", "WHATSAPP_", "LEADENGINE_", "DJANGO_", "PROMETHEUS_", "REDIS_", "CELERY_")
_OURS = frozenset({"SECRET_KEY", "PUBLIC_BASE_URL", "ALLOWED_HOSTS", "LOG_LEVEL", "DEBUG", "BASE_URL", "PORT"})
START_SECONDS = 180


class Failed(Exception):
    """The product did not start, or did not come back."""


class RunningProduct:
    """A product that runs on a data directory, whoever started it."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.env = read_env(data_dir / "run.env")
        self.url = self.env["BASE_URL"]

    def pid_of(self, name: str) -> int:
        """The number of a child that runs now (web, worker-1, sender, beat, valkey, postgres)."""
        return int(json.loads((self.data_dir / "processes.json").read_text())[name][0])

    def hurt(self, name: str) -> float:
        """kill -9 a child (PostgreSQL: restart it at once); seconds until another is in its place."""
        before, began = self.pid_of(name), time.monotonic()
        os.kill(before, signal.SIGINT if name == "postgres" else signal.SIGKILL)
        self.wait_for(lambda: self.pid_of(name) != before, f"{name} started again")
        return time.monotonic() - began

    def flush_valkey(self) -> None:
        """Let Valkey forget everything: wake-ups, rates, breakers. Raises: redis.RedisError."""
        with redis.Redis.from_url(self.env["REDIS_URL"]) as client:
            client.flushall()

    def ask(self, task: str, queue: str) -> None:
        """Put a task into the product's own queue, as its beat does when its time has come. Raises: an error of kombu
        while the engine is away."""
        with Celery(broker=self.env["REDIS_URL"]) as app:
            app.conf.broker_transport_options = {"max_retries": 0}
            app.send_task(task, queue=queue, retry=False)

    def cut_connections(self) -> None:
        """End every connection to the database, amid whatever it does."""
        with psycopg.connect(self.env["ADMIN_DATABASE_URL"], autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid() AND usename = 'leadengine_app'"
            )

    def is_ready(self) -> bool:
        """Whether a web process takes traffic and every part is well."""
        try:
            return bool(requests.get(f"{self.url}/healthz", timeout=5).json()["status"] == "ok")
        except (requests.RequestException, ValueError, KeyError):
            return False

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Rows of all tenants. Raises: psycopg.Error."""
        with psycopg.connect(self.env["DATABASE_URL"], connect_timeout=5) as connection:
            connection.execute(SET_SCOPE, SERVICE.parameters())
            return connection.execute(sql, parameters).fetchall()

    def simulate(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """A call of the simulator's control API: POST with a body, else GET."""
        url, headers = self.env["WHATSAPP_BROKER_URL"] + path, {"x-api-key": self.env["WHATSAPP_BROKER_API_KEY"]}
        method = "GET" if body is None else "POST"
        answer = requests.request(method, url, headers=headers, json=body, timeout=10)
        answer.raise_for_status()
        return answer.json()

    def manage(self, *words: str, given: str = "") -> str:
        """Run a command of the product beside it; what it printed. Raises: Failed."""
        done = subprocess.run(
            [sys.executable, "manage.py", *words], cwd=ROOT, env={**_clean(), **self.env}, input=given,
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        if done.returncode:
            raise Failed(f"{' '.join(words)}: {(done.stderr or done.stdout)[-1000:]}")
        return done.stdout

    def wait_for(self, condition: Callable[[], Any], what: str, seconds: float = 60) -> None:
        """Look until a condition holds; what is not readable yet does not. Raises: Failed."""
        end, look = time.monotonic() + seconds, threading.Event()
        while True:
            with contextlib.suppress(OSError, KeyError, ValueError, psycopg.Error, requests.RequestException):
                if condition():
                    return
            if time.monotonic() > end:
                raise Failed(f"Not so after {seconds:.0f} s: {what}.")
            look.wait(0.05)


@contextmanager
def start_product(data_dir: Path, given: Mapping[str, str] | None = None) -> Iterator[RunningProduct]:
    """A product of our own in a scratch directory; afterwards nothing is left of it. `given` are settings that its
    operator sets. Raises: Failed."""
    log = data_dir.with_suffix(".log")
    words = [sys.executable, "manage.py", "up", "--port", "0", "--no-demo", "--data-dir", str(data_dir)]
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            words, cwd=ROOT, env={**_clean(), "COMPAT_PORTS": "", **(given or {})}, stdout=output,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    try:
        end, look = time.monotonic() + START_SECONDS, threading.Event()
        while "\nready " not in log.read_text(errors="replace"):
            if process.poll() is not None or time.monotonic() > end:
                raise Failed(f"The product does not start:\n{log.read_text(errors='replace')[-2000:]}")
            look.wait(0.1)
        yield RunningProduct(data_dir)
    finally:
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        log.unlink(missing_ok=True)
        shutil.rmtree(data_dir, ignore_errors=True)


def _clean() -> dict[str, str]:
    """Our environment without the settings of another product."""
    return {
        name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN) and name not in _OURS
    }  # fmt: skip
