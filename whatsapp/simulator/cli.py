"""The command line, shared by `manage.py simulate_broker` and `python -m whatsapp.simulator`."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import structlog
from aiohttp import web
from pydantic import ValidationError

from whatsapp.simulator.app import build_app
from whatsapp.simulator.behaviours import PROFILES
from whatsapp.simulator.core import Config, Simulator
from whatsapp.simulator.customers import CrowdSize
from whatsapp.simulator.sending import is_loopback, is_loopback_host

EXAMPLE = "example: simulate_broker --port 4010 --webhook-url http://127.0.0.1:8000/api/integrations/whatsapp/webhook"


class UnusableArguments(Exception):
    """A sentence that says what to change in the arguments or the environment."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds every argument of the simulator."""
    parser.epilog = EXAMPLE
    parser.add_argument("--port", type=int, default=4010, help="0 takes a free one (default 4010)")
    parser.add_argument("--host", default="127.0.0.1", help="a loopback address (default 127.0.0.1)")
    parser.add_argument("--webhook-url", help="where the webhooks go; without it none are sent")
    parser.add_argument("--profile", choices=sorted(PROFILES), default="demo", help="demo: no delays, no limits")
    parser.add_argument("--seed", type=int, help="makes ids and conversations repeatable")
    parser.add_argument("--state-file", type=Path, help="keeps the instances over restarts")
    parser.add_argument("--api-key", help="comma list; default WHATSAPP_BROKER_API_KEY")
    parser.add_argument("--webhook-key", help="default WHATSAPP_WEBHOOK_API_KEY, else the first API key")
    parser.add_argument("--hmac-secret", help="default WHATSAPP_WEBHOOK_HMAC_SECRET, else the first API key")
    parser.add_argument("--customers", type=int, default=0, metavar="N", help="how many living customers")
    parser.add_argument("--per-minute", type=float, default=0, metavar="M", help="messages they begin per minute")


def config_of(options: argparse.Namespace, environ: Mapping[str, str]) -> Config:
    """Makes the configuration out of arguments and environment.

    Raises:
        UnusableArguments: no key, an address beyond this machine, a number out of range.
    """
    keys = _keys(options.api_key or environ.get("WHATSAPP_BROKER_API_KEY", ""))
    if not keys:
        raise UnusableArguments("No API key: give --api-key, or set WHATSAPP_BROKER_API_KEY.")
    if not is_loopback_host(options.host):
        raise UnusableArguments(
            f"--host {options.host} is not a loopback address: the simulator serves this machine only."
        )
    if options.webhook_url and not is_loopback(options.webhook_url):
        raise UnusableArguments(
            "--webhook-url must be an address of this machine: the simulator knows no other network."
        )
    try:
        crowd = CrowdSize.model_validate({"count": options.customers, "perMinute": options.per_minute})
    except ValidationError as error:
        raise UnusableArguments("--customers is 0 to 2000, --per-minute 0 to 60000.") from error
    return Config(
        api_keys=keys,
        webhook_url=options.webhook_url,
        webhook_key=_first(options.webhook_key, environ.get("WHATSAPP_WEBHOOK_API_KEY"), keys[0]),
        hmac_secret=_first(options.hmac_secret, environ.get("WHATSAPP_WEBHOOK_HMAC_SECRET"), keys[0]),
        profile=options.profile,
        seed=options.seed,
        state_file=options.state_file,
        crowd=crowd,
    )


@asynccontextmanager
async def serving(config: Config, *, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[tuple[Simulator, str]]:
    """Serves a simulator for as long as the context lasts; gives it and its base URL."""
    simulator = Simulator(config)
    runner = web.AppRunner(build_app(simulator), access_log=None, shutdown_timeout=0.3)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port, backlog=1024)
        await site.start()
        url = f"http://{'[' + host + ']' if ':' in host else host}:{runner.addresses[0][1]}"
        await simulator.start(url)
        try:
            yield simulator, url
        finally:  # never before it has started: stopping writes the state file
            await simulator.stop()
    finally:
        await runner.cleanup()


def run(options: argparse.Namespace) -> int:
    """Serves until SIGTERM or SIGINT; gives the exit code."""
    if not structlog.is_configured():
        structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    try:
        config = config_of(options, os.environ)
        asyncio.run(_serve_until_signalled(config, options.host, options.port))
    except UnusableArguments as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except json.JSONDecodeError as error:
        sys.stderr.write(f"The state file {options.state_file} is damaged ({error}): remove it to start anew.\n")
        return 1
    except OSError as error:
        sys.stderr.write(f"The simulator cannot serve {options.host}:{options.port}: {error.strerror}.\n")
        return 1
    return 0


async def _serve_until_signalled(config: Config, host: str, port: int) -> None:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    async with serving(config, host=host, port=port) as (_, url):
        sys.stdout.write(f"simulator ready {url}\n")
        sys.stdout.flush()
        await ended.wait()


def _keys(text: str) -> tuple[str, ...]:
    return tuple(key.strip() for key in text.split(",") if key.strip())


def _first(given: str | None, from_environment: str | None, fallback: str) -> str:
    """Takes what was given, even when empty; of a comma list in the environment the first."""
    if given is not None:
        return given
    return next(iter(_keys(from_environment or "")), fallback)
