"""A Valkey that may be killed, a network that may go dead, and the product's own processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
import requests

from leadengine import health
from leadengine.embedded.processes import free_port
from leadengine.embedded.valkey import server
from leadengine.operations import metrics_view
from whatsapp.simulator.cli import serving
from whatsapp.simulator.core import Config

ROOT = Path(__file__).resolve().parents[2]


def eventually(condition: Callable[[], object], seconds: float = 20) -> None:
    """Return when the condition holds; fail when it does not in time."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


class Valkey:
    """A server of the test's own, with an append-only file."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.client = redis.Redis.from_url(self.url)
        self.start()

    def start(self) -> None:
        words = [str(server()), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.directory)]
        words += ["--appendonly", "yes", "--save", "", "--logfile", str(self.directory / "log")]
        self.process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
        eventually(self._answers)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def _answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except redis.RedisError:
            return False


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Valkey]:
    running = Valkey(tmp_path)
    yield running
    running.client.close()
    running.kill()


class Wire:
    """A way to a server that can go dead: connections stay open and carry nothing; new ones work."""

    def __init__(self, port: int) -> None:
        self.target = port
        self.port = 0
        self._dead: set[asyncio.StreamWriter] = set()
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self._loop = asyncio.new_event_loop()
        self._up = threading.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._run(),))
        self._thread.start()
        self._up.wait()

    def go_dead(self) -> None:
        """From now on nothing passes on the connections that are open."""
        self._loop.call_soon_threadsafe(lambda: self._dead.update(self._open))

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join()
        self._loop.close()

    async def _run(self) -> None:
        self._ended = asyncio.Event()
        listener = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = listener.sockets[0].getsockname()[1]
        self._up.set()
        await self._ended.wait()
        listener.close()
        for writer in self._open:
            writer.transport.abort()  # what a dead wire still holds is never read
        await asyncio.gather(*self._tasks)
        await asyncio.gather(*(writer.wait_closed() for writer in self._open), return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self.target)
        self._open |= {writer, back}
        for one, other in ((reader, back), (there, writer)):
            self._tasks.append(asyncio.create_task(self._pump(one, other)))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                if writer not in self._dead:
                    writer.write(data)
        if writer not in self._dead:  # the end of one side does not pass a dead wire either
            writer.close()


@pytest.fixture
def wire(valkey: Valkey) -> Iterator[Wire]:
    running = Wire(valkey.port)
    yield running
    running.close()


class Process:
    """A process of the product; its output goes to a file."""

    def __init__(self, words: list[str], env: dict[str, str], log: Path) -> None:
        self.log = log
        self._file = log.open("w")
        self.popen = subprocess.Popen(
            words, cwd=ROOT, env={**os.environ, **env}, stdout=self._file, stderr=subprocess.STDOUT
        )

    def said(self) -> str:
        return self.log.read_text()

    def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        self.popen.terminate()
        return self.popen.wait(20)

    def close(self) -> None:
        if self.popen.poll() is None:
            self.popen.kill()
            self.popen.wait()
        self._file.close()


@contextmanager
def command(*words: str, process: str, log: Path, **env: str) -> Iterator[Process]:
    """`manage.py …` until the block ends."""
    running = Process([sys.executable, "manage.py", *words], {"LEADENGINE_PROCESS": process, **env}, log)
    try:
        yield running
    finally:
        running.close()


@pytest.fixture
def fresh() -> Iterator[None]:
    """Health and gauges are read anew in this test, and nothing of it is kept for the next."""
    _forget()
    yield
    _forget()


def _forget() -> None:
    health._examiner.report = health.Report()
    health._examiner._running.clear()
    metrics_view._gauges._at = float("-inf")


class SimulatorThread:
    """The broker simulator on a thread of its own, without a webhook address unless one is given."""

    headers = {"x-api-key": "broker-key-1"}

    def __init__(self, webhook_url: str | None = None) -> None:
        self.url = ""
        self._loop = asyncio.new_event_loop()
        self._up = threading.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._run(webhook_url),))
        self._thread.start()
        assert self._up.wait(20)

    def state(self) -> Any:
        """GET /_sim/state."""
        return requests.get(f"{self.url}/_sim/state", headers=self.headers, timeout=5).json()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join()
        self._loop.close()

    async def _run(self, webhook_url: str | None) -> None:
        self._ended = asyncio.Event()
        config = Config(api_keys=("broker-key-1",), webhook_url=webhook_url, webhook_key="hook-key", seed=1)
        async with serving(config) as (_, self.url):
            self._up.set()
            await self._ended.wait()


@pytest.fixture
def simulator() -> Iterator[SimulatorThread]:
    running = SimulatorThread()
    yield running
    running.close()


@pytest.fixture
def reachable_dir() -> Iterator[Path]:
    """A directory that other users may pass through: PostgreSQL does not run as root."""
    path = Path(tempfile.mkdtemp(prefix="leadengine-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)
