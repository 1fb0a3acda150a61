"""`manage.py recover_sessions`: bring back what was connected (spec/sessions.md section 8, Recovery)."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from django.core.management.base import CommandParser

from whatsapp.management.telling import FOUND, Bar, LedgerCommand, stoppable
from whatsapp.services.sessions.recovery import recover_sessions


class Command(LedgerCommand):
    help = (
        "Probes every wanted connection that was connected or connecting and starts those that are not. Every web "
        "process and worker asks for it at its start; at most once a minute it is done. Exit code 0: all are connected "
        "or it was done just now; 1: some are not. Example: manage.py recover_sessions --force"
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--force", action="store_true", help="also when it was done within the last minute")

    def handle(self, *_args: Any, **options: Any) -> None:
        with stoppable(lambda: "start again to go on."), Bar("recovering"):
            done = recover_sessions(trigger="command", force=options["force"])
        if options["json"]:
            self.stdout.write(json.dumps({"ran": done is not None, **(asdict(done) if done else {})}))
        elif done is None:
            self.stdout.write("Done within the last minute, or being done: --force does it again.")
        else:
            slowest = "" if done.slowest_seconds is None else f", the slowest after {done.slowest_seconds:.1f} s"
            self.stdout.write(f"{done.reconnected} of {done.expected} are connected{slowest}; {done.lost} are not.")
        self.end(FOUND if done is not None and done.lost else 0)
