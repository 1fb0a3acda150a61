"""The whole product, started as a user starts it: `manage.py up` on a data directory of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psycopg
import requests
from celery import Celery

from leadengine.accounts.scopes import SERVICE, SET_SCOPE

ROOT = Path(__file__).resolve().parent.parent


class Product:
    """A running `manage.py up`. `env` is its run.env; `given` are variables that its operator sets."""

    def __init__(self, data_dir: Path, *arguments: str, given: Mapping[str, str] | None = None) -> None:
        self.data_dir = data_dir
        self.log: list[str] = []
        self._ready = threading.Event()
        environ = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("DATABASE_", "ADMIN_", "WHATSAPP_", "LEADENGINE_", "DJANGO_", "PROMETHEUS_"))
            and name not in {"REDIS_URL", "SECRET_KEY", "PUBLIC_BASE_URL", "ALLOWED_HOSTS", "LOG_LEVEL", "DEBUG"}
        }
        self.process = subprocess.Popen(
            [sys.executable, "manage.py", "up", "--port", "0", "--data-dir", str(data_dir), *arguments],
            cwd=ROOT, env={**environ, "COMPAT_PORTS": "", **(given or {})}, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        if not self._ready.wait(180):
            self.stop()
            raise AssertionError("up did not become ready:\n" + "".join(self.log[-80:]))
        lines = (data_dir / "run.env").read_text().splitlines()
        self.env = {
            k: v.strip("'\"") for k, _, v in (line.partition("=") for line in lines) if k and not k.startswith("#")
        }

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.log.append(line)
            if line.startswith("ready "):
                self._ready.set()

    @property
    def url(self) -> str:
        return self.env["BASE_URL"]

    def stop(self) -> None:
        """End it as Ctrl-C does."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(20)
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self._reader.join(10)
        if self.process.stdout is not None:
            self.process.stdout.close()

    def kill(self, name: str) -> None:
        """kill -9 one child by the name its log lines carry (web, worker-1, sender, beat, valkey, postgres)."""
        os.kill(self.pid_of(name), signal.SIGKILL)

    def pid_of(self, name: str) -> int:
        """The process id of a child that runs now."""
        rows = json.loads((self.data_dir / "processes.json").read_text())
        return int(rows[name][0])

    def provision(self, document: dict[str, Any]) -> dict[str, Any]:
        """`manage.py provision` beside it."""
        done = subprocess.run(
            [sys.executable, "manage.py", "provision", "--file", "-"], cwd=ROOT, env={**os.environ, **self.env},
            input=json.dumps(document), capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def ask(self, task: str, queue: str) -> None:
        """Put a task into the product's own queue, as its beat does when its time has come."""
        with Celery(broker=self.env["REDIS_URL"]) as app:
            app.send_task(task, queue=queue)

    def simulate(self, path: str, body: Any = None) -> Any:
        """A call of the simulator's control API: POST with a body, else GET."""
        url, headers = self.env["WHATSAPP_BROKER_URL"] + path, {"x-api-key": self.env["WHATSAPP_BROKER_API_KEY"]}
        call = requests.get if body is None else requests.post
        answer = call(url, headers=headers, timeout=30, **({} if body is None else {"json": body}))
        assert answer.ok, answer.text
        return answer.json()

    @contextlib.contextmanager
    def database(self) -> Iterator[psycopg.Connection[Any]]:
        """All tenants' rows, read as the service role."""
        with psycopg.connect(self.env["DATABASE_URL"]) as connection:
            connection.execute(SET_SCOPE, SERVICE.parameters())
            yield connection

    def wait_for(self, condition: Callable[[], bool], seconds: float = 30) -> None:
        """Wait until something is so, looking twenty times a second."""
        end = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, "up has ended:\n" + "".join(self.log[-80:])
            assert time.monotonic() < end, "it did not happen in time:\n" + "".join(self.log[-80:])
            threading.Event().wait(0.05)
