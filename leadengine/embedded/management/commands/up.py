"""`python3 manage.py up`: the whole product from a clean clone (spec/run.md section 1)."""

from __future__ import annotations

import asyncio
import os
import sys
from argparse import ArgumentTypeError, RawDescriptionHelpFormatter
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from leadengine.embedded import environment, serve
from leadengine.embedded.launch import DEFAULT_PORT, Launch, Options, check_settings
from leadengine.embedded.processes import UnableToStart, hold
from leadengine.embedded.terminal import Terminal


class Command(BaseCommand):
    help = (
        "Start everything: PostgreSQL and Valkey when DATABASE_URL or REDIS_URL is not set, the broker simulator when\n"
        "WHATSAPP_BROKER_URL is not set, web, workers and beat. Ctrl-C ends all of it.\n\n"
        "Example: python3 manage.py up --port 8001 --web 2 --once-ready 'curl -s $BASE_URL/healthz'"
    )
    requires_system_checks = ()

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        parser = super().create_parser(prog_name, subcommand, **kwargs)
        parser.formatter_class = RawDescriptionHelpFormatter
        return parser

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--host", default="127.0.0.1", help="address to listen on (IPv4; default 127.0.0.1)")
        parser.add_argument("--port", type=int, help=f"port to listen on; 0 takes a free one (default {DEFAULT_PORT})")
        data_dir = os.environ.get("LEADENGINE_DATA_DIR") or str(environment.ROOT / ".data")
        parser.add_argument("--data-dir", default=data_dir, help="where all data is kept (default .data)")
        parser.add_argument("--web", type=count, default=1, metavar="N", help="web processes (default 1)")
        parser.add_argument("--workers", type=count, default=1, metavar="N", help="worker processes (default 1)")
        parser.add_argument("--server", choices=serve.SERVERS, default="daphne")
        parser.add_argument("--no-demo", action="store_true", help="make no demo tenant")
        parser.add_argument("--no-simulator", action="store_true", help="start no simulated broker")
        parser.add_argument("--once-ready", default="", metavar="CMD", help="run CMD when ready, then end everything")

    def handle(self, **options: Any) -> None:
        os.umask(0o077)  # what the processes write below the data directory is nobody else's
        terminal = Terminal()
        try:
            data_dir = environment.open_data_dir(Path(options["data_dir"]))
            with hold(data_dir / "lock", f"`manage.py up` (process {os.getpid()})"):
                launch = Launch(
                    Options(
                        data_dir=data_dir,
                        host=options["host"],
                        port=options["port"],
                        web=options["web"],
                        workers=options["workers"],
                        server=options["server"],
                        demo=not options["no_demo"],
                        simulator=not options["no_simulator"],
                        once_ready=options["once_ready"],
                    ),
                    terminal,
                )
                check_settings()
                code = asyncio.run(launch.run())
        except UnableToStart as error:
            self.stderr.write(str(error))
            sys.exit(1)
        sys.exit(code)


def count(word: str) -> int:
    """Read a number of processes."""
    if not word.isdigit() or int(word) < 1:
        raise ArgumentTypeError("must be a whole number of at least 1")
    return int(word)
