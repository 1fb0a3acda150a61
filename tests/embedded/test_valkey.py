from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import redis

from leadengine.embedded.processes import UnableToStart
from leadengine.embedded.valkey import EmbeddedValkey
from tests.embedded.conftest import eventually, running
from tests.embedded.test_postgres import proc


def answers(server: EmbeddedValkey) -> bool:
    try:
        with redis.Redis.from_url(server.url) as client:
            return bool(client.ping())
    except redis.ConnectionError:
        return False


async def test_data_and_port_last_over_restarts(data_dir: Path) -> None:
    async with running(data_dir, valkey=True) as servers:
        first = servers.valkey
        with redis.Redis.from_url(first.url) as client:
            client.set("kept", "1")
            policy = client.config_get("maxmemory-policy", "appendonly", "appendfsync", "save", "bind")
        assert policy == {
            "maxmemory-policy": "noeviction",
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "bind": "127.0.0.1",
        }
    async with running(data_dir, valkey=True) as servers:
        assert servers.valkey.port == first.port
        with redis.Redis.from_url(first.url, decode_responses=True) as client:
            assert client.get("kept") == "1"


async def test_needs_its_password_and_hides_it(data_dir: Path) -> None:
    async with running(data_dir, valkey=True) as servers:
        with (
            redis.Redis(host="127.0.0.1", port=servers.valkey.port) as client,
            pytest.raises(redis.AuthenticationError),
        ):
            client.ping()
        assert servers.valkey.password not in proc(servers.supervisor.children[0].pid, "cmdline")
        assert (data_dir / "valkey" / "valkey.conf").stat().st_mode & 0o777 == 0o600


async def test_killed_server_is_back_on_its_port_with_its_data(data_dir: Path) -> None:
    async with running(data_dir, valkey=True) as servers:
        with redis.Redis.from_url(servers.valkey.url, decode_responses=True) as client:
            client.set("kept", "1")
            client.execute_command("WAITAOF", 1, 0, 2000)  # on disk: everysec may lose the last second
            child = servers.supervisor.children[0]
            dead = child.pid
            os.kill(dead, signal.SIGKILL)
            await eventually(lambda: child.pid != dead and answers(servers.valkey))
            assert client.get("kept") == "1"


async def test_damaged_data_is_told(data_dir: Path) -> None:
    (data_dir / "valkey" / "appendonlydir").mkdir(parents=True)
    (data_dir / "valkey" / "appendonlydir" / "appendonly.aof.manifest").write_text("rubbish\n")
    with pytest.raises(UnableToStart, match="manifest"):
        async with running(data_dir, valkey=True):
            pass
