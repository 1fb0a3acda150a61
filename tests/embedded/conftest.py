"""Data directories, servers from the wheels, and a small product to start: no test here needs Django or the product."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from leadengine.embedded import engines
from leadengine.embedded.environment import State, open_data_dir
from leadengine.embedded.postgres import EmbeddedPostgres
from leadengine.embedded.supervisor import Supervisor
from leadengine.embedded.terminal import Terminal
from leadengine.embedded.valkey import EmbeddedValkey
from tests.embedded import stand_in


@contextmanager
def directory() -> Iterator[Path]:
    """A directory that other users may pass through; pytest's own are closed to them."""
    path = Path(tempfile.mkdtemp(prefix="leadengine-"))
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path)


@pytest.fixture
def reachable() -> Iterator[Path]:
    with directory() as path:
        yield path


@pytest.fixture
def data_dir(reachable: Path) -> Path:
    return open_data_dir(reachable / ".data")


@pytest.fixture
def product(reachable: Path) -> Path:
    """The root of a small product (stand_in.py)."""
    return stand_in.build(reachable / "clone")


class Servers:
    """A supervisor with one or both of the embedded servers."""

    def __init__(self, data_dir: Path) -> None:
        self.log = (data_dir / "terminal").open("w+", encoding="utf-8")
        self.supervisor = Supervisor(Terminal(self.log), data_dir / "processes.json")
        self.state = State(data_dir)
        self.data_dir = data_dir
        self.postgres: EmbeddedPostgres
        self.valkey: EmbeddedValkey

    def said(self) -> str:
        """All that the terminal showed."""
        return (self.data_dir / "terminal").read_text(encoding="utf-8")


@asynccontextmanager
async def running(data_dir: Path, *, postgres: bool = False, valkey: bool = False) -> AsyncIterator[Servers]:
    """Start servers as `up` does, and stop them as `up` does."""
    servers = Servers(data_dir)
    if postgres:
        servers.postgres = EmbeddedPostgres(data_dir, servers.state)
    if valkey:
        servers.valkey = EmbeddedValkey(data_dir, servers.state)
    try:
        await engines.start(
            servers.supervisor, servers.postgres if postgres else None, servers.valkey if valkey else None
        )
        yield servers
    finally:
        await servers.supervisor.stop()
        servers.log.close()


async def eventually(condition: Callable[[], object], patience: float = 15) -> None:
    """Return when the condition holds; fail when it does not within `patience` seconds."""
    for _ in range(int(patience / 0.02)):
        if condition():
            return
        await asyncio.sleep(0.02)
    assert condition()


@pytest.fixture(scope="session")
def ordinary_python() -> str:
    """A Python that an ordinary user may start; ours may lie under /root."""
    for name in (os.path.realpath("/proc/self/exe"), "/usr/bin/python3"):
        words = [name, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]
        try:
            run = subprocess.run(words, user="nobody", group=65534, extra_groups=[], cwd="/", check=False)
        except PermissionError:
            continue
        if run.returncode == 0:
            return name
    pytest.skip("no Python 3.11 that an ordinary user may start")
