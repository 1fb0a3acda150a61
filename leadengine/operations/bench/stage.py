"""Where a bench plays: a PostgreSQL and a Valkey of its own, two databases, and the product's processes beside them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg

from leadengine.celery import SENDING
from leadengine.embedded import engines
from leadengine.embedded.environment import ROOT, State, open_data_dir
from leadengine.embedded.postgres import EmbeddedPostgres
from leadengine.embedded.supervisor import Supervisor
from leadengine.embedded.terminal import Terminal
from leadengine.embedded.valkey import EmbeddedValkey
from leadengine.operations.bench.bodies import KEY, SECRET
from leadengine.operations.bench.load import Plan, Result

TENANTS = 4  # that the product's load is spread over
CLIENTS = 8  # of pgbench, each with a tenant of its own: they must not wait for each other's rows
FLOORS = "floors"  # the database of the floors: what they write does not weigh on the product
_FOREIGN = ("DATABASE_", "ADMIN_DATABASE_", "WHATSAPP_", "LEADENGINE_", "DJANGO_", "PROMETHEUS_", "REDIS_", "CELERY_")


class Failed(Exception):
    """A part of the bench did not do what it should."""


class Stage:
    """Made by `open_stage`; everything on it is gone when that ends."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = open_data_dir(data_dir)
        state = State(self.data_dir)
        self.postgres = EmbeddedPostgres(self.data_dir, state)
        self.valkey = EmbeddedValkey(self.data_dir, state)
        self._silence = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
        self.supervisor = Supervisor(Terminal(self._silence), self.data_dir / "processes.json")
        self.lines: list[str] = [f"bench-{number}" for number in range(TENANTS)]
        self.tokens: list[str] = []
        self.settings: dict[str, str] = {}  # that the processes find beside ours

    async def start(self) -> None:
        """Start the servers, migrate, make the tenants, and copy all of it for the floors."""
        await engines.start(self.supervisor, self.postgres, self.valkey)
        (self.data_dir / "metrics").mkdir()
        await self.manage("migrate", "--verbosity", "0")
        slugs = [*self.lines, "capture", *(f"client-{number}" for number in range(CLIENTS))]
        made = json.loads(await self.manage("provision", "--file", "-", given=json.dumps(_tenants(slugs))))
        self.tokens = [tenant["apiTokens"][0]["token"] for tenant in made["tenants"][:TENANTS]]
        self.sql(f"CREATE DATABASE {FLOORS} TEMPLATE leadengine")

    async def close(self) -> None:
        """Stop everything and remove the data."""
        await self.supervisor.stop()
        self._silence.close()
        self.postgres.remove_outside()
        shutil.rmtree(self.data_dir, ignore_errors=True)

    def url(self, role: str = "postgres", database: str = "leadengine") -> str:
        """The address of a database, for `postgres`, `owner` or `app`."""
        return urlunsplit(urlsplit(self.postgres.url(role))._replace(path=f"/{database}"))

    def sql(self, statement: str, parameters: Sequence[Any] = (), *, database: str = "leadengine") -> list[Any]:
        """Run a statement as superuser; returns its rows."""
        with psycopg.connect(self.url(database=database), autocommit=True) as connection:
            cursor = connection.execute(statement, parameters or None)
            return cursor.fetchall() if cursor.description else []

    def wipe(self) -> None:
        """Forget all that the load has left in the product's database."""
        tables = "leads_contact, tickets_ticket, whatsapp_webhookevent, tickets_ticketcounter, whatsapp_parkedeffect"
        self.sql(f"TRUNCATE {tables} CASCADE")

    def environment(self, process: str, database: str = "leadengine") -> dict[str, str]:
        """What a process of the product finds."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
        return {
            **kept,
            "DATABASE_URL": self.url("app", database),
            "ADMIN_DATABASE_URL": self.url("owner", database),
            "REDIS_URL": self.valkey.url,
            "SECRET_KEY": secrets.token_urlsafe(50),
            "DEBUG": "true",
            "LOG_LEVEL": "warning",
            "LEADENGINE_DATA_DIR": str(self.data_dir),
            "LEADENGINE_PROCESS": process,
            "RABBITMQ_WORKER_COUNT": "1",
            "WHATSAPP_BROKER_URL": "http://127.0.0.1:9",
            "WHATSAPP_BROKER_API_KEY": secrets.token_hex(16),
            "WHATSAPP_WEBHOOK_API_KEY": KEY,
            "WHATSAPP_WEBHOOK_HMAC_SECRET": SECRET,
            "WHATSAPP_WEBHOOK_ENFORCE_SIGNATURE": "true",
            **({"PROMETHEUS_MULTIPROC_DIR": str(self.data_dir / "metrics")} if process != "command" else {}),
            **self.settings,
        }

    async def manage(self, *words: str, given: str = "") -> str:
        """Run a command of the product to its end; returns what it printed."""
        return await self.python(str(ROOT / "manage.py"), *words, given=given)

    async def python(self, *words: str, given: str = "", database: str = "leadengine") -> str:
        """Run a Python program in the product's environment. Raises: Failed."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, *words, cwd=ROOT, env=self.environment("command", database), stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            output, errors = await process.communicate(given.encode())
        except asyncio.CancelledError:
            process.kill()
            await process.wait()
            raise
        if process.returncode:
            raise Failed(f"{' '.join(words)[:80]}: {errors.decode(errors='replace')[-2000:]}")
        return output.decode()

    async def load(self, plan: Plan) -> Result:
        """Run the load generator in a process of its own."""
        output = await self.python("-m", "leadengine.operations.bench.load", given=json.dumps(asdict(plan)))
        return Result(**json.loads(output))

    @asynccontextmanager
    async def web(self, server: str, *, constant: bool = False) -> AsyncIterator[int]:
        """A web process, ours or the constant one; gives its port, which answers once `ready` has waited for it."""
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen(1024)
            port = listener.getsockname()[1]
            module = "leadengine.operations.bench.constant" if constant else "leadengine.embedded.serve"
            words = ("-m", module, "--server", server, "--fd", str(listener.fileno()))
            async with self._process("web", *words, descriptors=(listener.fileno(),)):
                yield port

    @asynccontextmanager
    async def worker(self) -> AsyncIterator[None]:
        """A worker with one process."""
        async with self._process("worker", str(ROOT / "manage.py"), "worker", "--name", "bench"):
            yield

    @asynccontextmanager
    async def sender(self) -> AsyncIterator[None]:
        """The worker that sends."""
        words = ("worker", "--name", "bench-sender", "--queues", SENDING)
        async with self._process("sender", str(ROOT / "manage.py"), *words):
            yield

    @asynccontextmanager
    async def simulator(self) -> AsyncIterator[str]:
        """A broker that answers at once and tells nobody; gives its address, once it listens."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        words = ("simulate_broker", "--port", str(port), "--profile", "demo")
        async with self._process("simulator", str(ROOT / "manage.py"), *words):
            yield f"http://127.0.0.1:{port}"

    @asynccontextmanager
    async def beat(self) -> AsyncIterator[None]:
        """The clock."""
        async with self._process("beat", str(ROOT / "manage.py"), "beat"):
            yield

    async def ready(self, port: int, *kinds: str) -> None:
        """Wait until what was started works: the server of a port (0: none), and processes that write heartbeats."""
        end = time.monotonic() + 60
        sql = "SELECT count(DISTINCT kind) FROM operations_heartbeat WHERE kind = ANY(%s)"
        while (port and not await _answers(port)) or self.sql(sql, [list(kinds)])[0][0] < len(kinds):
            if time.monotonic() > end:
                raise Failed("The product does not start.")
            await asyncio.sleep(0.05)

    @asynccontextmanager
    async def _process(self, process: str, *words: str, descriptors: Sequence[int] = ()) -> AsyncIterator[None]:
        log = self.data_dir / "log" / f"bench-{process}.log"
        with log.open("ab") as output:
            child = await asyncio.create_subprocess_exec(
                sys.executable, *words, cwd=ROOT, env=self.environment(process), stdin=asyncio.subprocess.DEVNULL,
                stdout=output, stderr=asyncio.subprocess.STDOUT, pass_fds=descriptors, start_new_session=True,
            )  # fmt: skip
        try:
            yield
            if child.returncode is not None:
                raise Failed(f"The {process} process has ended: {log.read_text(errors='replace')[-2000:]}")
        finally:
            self.sql("DELETE FROM operations_heartbeat")
            if child.returncode is None:
                child.send_signal(signal.SIGTERM)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(child.wait(), 10)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            await child.wait()


@asynccontextmanager
async def open_stage(data_dir: Path) -> AsyncIterator[Stage]:
    """A stage with its servers running; afterwards nothing is left of it."""
    stage = Stage(data_dir)
    try:
        await stage.start()
        yield stage
    finally:
        await stage.close()


def _tenants(slugs: Sequence[str]) -> dict[str, Any]:
    def tenant(slug: str) -> dict[str, Any]:
        email = f"admin@{slug}.test"
        return {
            "slug": slug,
            "name": slug,
            "users": [{"email": email, "name": "Bench", "role": "ADMIN"}],
            "queues": [{"name": "Bench"}],
            "sessions": [{"connectionId": slug, "name": "Bench", "status": "connected", "owner": email}],
            "apiTokens": [{"name": "bench", "user": email}],
        }

    return {"tenants": [tenant(slug) for slug in slugs]}


async def _answers(port: int) -> bool:
    """Whether a web server answers by now; it waits for one that listens and is not there yet."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(b"GET /api/integrations/whatsapp/webhook HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        return bool(await asyncio.wait_for(reader.readline(), 30))
    except (OSError, TimeoutError):
        return False
    finally:
        writer.close()
