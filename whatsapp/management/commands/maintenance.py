"""`manage.py maintenance on|off`: leave connections alone, or close the product (spec/sessions.md section 8)."""

from __future__ import annotations

import json
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils import timezone

from leadengine.accounts.scopes import service_scope
from whatsapp.management.telling import BAD_USE, LedgerCommand
from whatsapp.services.sessions.maintaining import read_maintenance, set_maintenance


class Command(LedgerCommand):
    help = (
        "Switches maintenance; it acts within 5 s in every process, without a restart. On: nothing is reconnected, "
        "the status is still followed. With --closed, everything but the health pages answers 503, too. Without a word "
        "it says how it is. Example: manage.py maintenance on --closed --reason 'Troca do servidor'"
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("switch", nargs="?", choices=["on", "off"])
        parser.add_argument("--closed", action="store_true", help="answer 503 everywhere but health")
        parser.add_argument("--reason", default="", help="for the audit log")

    def handle(self, *_args: Any, **options: Any) -> None:
        switch = options["switch"]
        if options["closed"] and switch != "on":
            raise CommandError("--closed goes with `maintenance on`.", returncode=BAD_USE)
        if switch:
            with service_scope("maintenance by an operator"):
                set_maintenance(
                    on=switch == "on", closed=options["closed"], reason=options["reason"], now=timezone.now()
                )
        row = read_maintenance()
        if options["json"]:
            self.stdout.write(json.dumps({"on": row.is_on, "closed": row.closed, "reason": row.reason}))
        else:
            state = ("on, closed" if row.closed else "on") if row.is_on else "off"
            self.stdout.write(f"Maintenance is {state}{f': {row.reason}' if row.reason else ''}.")
