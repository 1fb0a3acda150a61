"""`manage.py chaos sessions|send`: hurt the product while it works, and prove that nothing promised is lost."""

from __future__ import annotations

import json
import os
import secrets
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from leadengine.operations.chaos import send
from leadengine.operations.chaos.product import Failed, start_product
from leadengine.operations.chaos.sessions import chaos_sessions

KILLS = 200


class Command(BaseCommand):
    help = (
        "Starts a product of its own, works with it from several threads while processes are killed with -9, "
        "PostgreSQL is restarted and connections to it are cut, and proves afterwards that nothing promised is lost. "
        "`sessions` changes connections: every acknowledged wish is in the database, every wanted connection is back "
        "within 30 s, the journal is empty. `send` writes messages through all doors to a broker that misbehaves in "
        "every way: each is at a phone once and in order, or says why it is not. The data are gone afterwards. "
        "Exit code 1: not so. Example: manage.py chaos send --messages 2000 --conversations 50"
    )
    requires_system_checks = []

    def add_arguments(self, parser: CommandParser) -> None:
        whole = send.Size()
        parser.add_argument("what", choices=["sessions", "send"])
        parser.add_argument(
            "--kills", type=int, metavar="N", help=f"how many (default: {KILLS} for sessions, {whole.kills} for send)"
        )
        parser.add_argument("--messages", type=int, default=whole.messages, metavar="N", help="of send (%(default)s)")
        parser.add_argument(
            "--conversations", type=int, default=whole.conversations, metavar="N", help="of send (%(default)s)"
        )
        parser.add_argument("--seed", type=int, help="what goes wrong when; printed, so that a run can be repeated")
        parser.add_argument("--json", action="store_true", help="print JSON")
        parser.add_argument("--data-dir", help="where the scratch data lie (default: beside the product's)")

    def handle(self, *_args: Any, **options: Any) -> None:
        data_dir = Path(options["data_dir"] or settings.DATA_DIR / f"chaos-{os.getpid()}")
        seed = secrets.randbits(32) if options["seed"] is None else options["seed"]
        data_dir.parent.mkdir(parents=True, exist_ok=True)
        try:
            outcome = self._send(data_dir, seed, options) if options["what"] == "send" else None
            outcome = outcome or self._sessions(data_dir, seed, options)
        except Failed as error:
            raise CommandError(f"{error} (seed {seed})") from error
        except KeyboardInterrupt:
            sys.exit(130)
        if options["json"]:
            self.stdout.write(json.dumps({"seed": seed, **outcome.as_json()}, indent=2, ensure_ascii=False))
        else:
            self.stdout.write("\n".join([f"  {'seed':<26}{seed}", *outcome.as_lines()]))
        if not outcome.good:
            sys.exit(1)

    def _send(self, data_dir: Path, seed: int, options: dict[str, Any]) -> Any:
        size = replace(send.Size(), messages=options["messages"], conversations=options["conversations"])
        if options["kills"] is not None:
            size = replace(size, kills=options["kills"])
        with start_product(data_dir, send.SETTINGS) as product:
            return send.chaos_send(product=product, size=size, seed=seed, step=self._step)

    def _sessions(self, data_dir: Path, seed: int, options: dict[str, Any]) -> Any:
        kills, done = options["kills"] or KILLS, 0

        def step(name: str) -> None:
            nonlocal done
            done += 1
            self._step(f"{done}/{kills} {name}")

        with start_product(data_dir) as product:
            return chaos_sessions(product=product, kills=kills, seed=seed, step=step)

    def _step(self, text: str) -> None:
        """Where we are, on a terminal only."""
        if sys.stderr.isatty():
            sys.stderr.write(f"\r\033[K  {text}")
            sys.stderr.flush()
