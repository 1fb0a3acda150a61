"""The process: its one line, its end within 2 s, what it refuses."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession

from whatsapp.simulator.cli import UnusableArguments, add_arguments, config_of

ROOT = Path(__file__).parents[3]


def options(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(arguments)


def test_keys_come_from_arguments_then_environment() -> None:
    environ = {
        "WHATSAPP_BROKER_API_KEY": "a, b",
        "WHATSAPP_WEBHOOK_API_KEY": "hook",
        "WHATSAPP_WEBHOOK_HMAC_SECRET": "s",
    }
    config = config_of(options(), environ)
    assert (config.api_keys, config.webhook_key, config.hmac_secret) == (("a", "b"), "hook", "s")
    config = config_of(options("--api-key", "x,y"), {})
    assert (config.api_keys, config.webhook_key, config.hmac_secret) == (("x", "y"), "x", "x")
    config = config_of(options("--webhook-key", "", "--customers", "5", "--per-minute", "12"), environ)
    assert (config.webhook_key, config.crowd.count, config.crowd.per_minute) == ("", 5, 12)


@pytest.mark.parametrize(
    ("arguments", "environ", "sentence"),
    [
        ((), {}, "No API key"),
        (("--host", "0.0.0.0"), {"WHATSAPP_BROKER_API_KEY": "k"}, "loopback"),  # noqa: S104 (it is refused)
        (("--webhook-url", "https://example.org/x"), {"WHATSAPP_BROKER_API_KEY": "k"}, "this machine"),
        (("--customers", "-1"), {"WHATSAPP_BROKER_API_KEY": "k"}, "--customers"),
    ],
)
def test_unusable_arguments_are_one_sentence(arguments: Any, environ: dict[str, str], sentence: str) -> None:
    with pytest.raises(UnusableArguments, match=sentence):
        config_of(options(*arguments), environ)


async def test_the_process_says_ready_serves_and_ends_within_two_seconds(tmp_path: Path) -> None:
    process = await simulate("--api-key", "k", "--state-file", str(tmp_path / "s.json"), "--customers", "3")
    assert process.stdout is not None
    line = (await process.stdout.readline()).decode().strip()
    assert line.startswith("simulator ready http://127.0.0.1:")
    url = line.rpartition(" ")[2]
    async with ClientSession(headers={"x-api-key": "k"}) as session:
        await session.post(url + "/_sim/loja1/open", json={})
        stream = await session.get(url + "/instances/events")
        assert await stream.content.readline() == b"event: instance\n"
        slow = {"sendDelayMs": 60_000}
        await session.post(url + "/_sim/loja1/behaviour", json=slow)
        body = {"to": "5511988887777", "message": "x"}
        sending = asyncio.create_task(session.post(url + "/instances/loja1/send-text", json=body))
        await asyncio.sleep(0.1)
        started = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
        assert time.monotonic() - started < 2
        stream.close()
        with pytest.raises(Exception, match=r".*"):
            await sending
    assert await process.stdout.read() == b""
    assert '"id": "loja1"' in (tmp_path / "s.json").read_text()


@pytest.mark.parametrize("arguments", [(), ("--api-key", "k")])
async def test_without_a_key_or_on_a_busy_port_it_says_one_sentence(arguments: tuple[str, ...], tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    state.write_text('{"instances": []}')
    with socket.create_server(("127.0.0.1", 0)) as busy:
        process = await simulate(*arguments, "--state-file", str(state), port=busy.getsockname()[1])
        out, error = await process.communicate()
    assert (process.returncode, out) == (1, b"")
    assert error.count(b"\n") == 1
    assert b"Traceback" not in error
    assert state.read_text() == '{"instances": []}', "what was saved is not lost by a failed start"


async def test_a_damaged_state_file_is_said_and_kept(tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    state.write_text("{")
    process = await simulate("--api-key", "k", "--state-file", str(state))
    _, error = await process.communicate()
    assert (process.returncode, error.count(b"\n"), state.read_text()) == (1, 1, "{")


async def test_neither_django_nor_the_product_is_imported() -> None:
    foreign = "('django', 'leadengine', 'tickets', 'leads')"
    code = f"import sys, whatsapp.simulator.cli; print([m for m in sys.modules if m.split('.')[0] in {foreign}])"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, cwd=ROOT, stdout=asyncio.subprocess.PIPE)
    assert (await process.communicate())[0].strip() == b"[]"


def test_the_management_command_takes_the_same_arguments() -> None:
    from whatsapp.management.commands.simulate_broker import Command

    command = Command()
    parser = command.create_parser("manage.py", "simulate_broker")
    parsed = parser.parse_args(["--port", "0", "--profile", "real", "--seed", "3"])
    assert (parsed.port, parsed.profile, parsed.seed) == (0, "real", 3)
    assert command.requires_system_checks == []


async def simulate(*arguments: str, port: int = 0) -> asyncio.subprocess.Process:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("WHATSAPP_")}
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "whatsapp.simulator",
        "--port",
        str(port),
        *arguments,
        cwd=ROOT,
        env=environ,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
