"""`manage.py erase_old_webhooks`: the nightly retention of the raw inbox by hand (spec/inbound.md section 15)."""

from __future__ import annotations

import json
from typing import Any

from django.core.management.base import CommandParser
from django.utils import timezone

from whatsapp.management.telling import Bar, LedgerCommand, stoppable
from whatsapp.services.retention import count_old_webhooks, erase_old_webhooks


class Command(LedgerCommand):
    help = (
        "Erases webhook bodies older than WHATSAPP_WEBHOOK_RAW_RETENTION_DAYS (failed and orphan ones: once "
        "resolved, or after 90 days) and deletes ledger lines older than 400 days. Runs every night by itself. "
        "Example: manage.py erase_old_webhooks --dry-run"
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--dry-run", action="store_true", help="only say how much it would be")

    def handle(self, *_args: Any, **options: Any) -> None:
        now = timezone.now()
        dry = options["dry_run"]
        with stoppable(lambda: "start again to go on."), Bar("rows") as bar:
            done = count_old_webhooks(now=now) if dry else erase_old_webhooks(now=now, step=bar.step)
        if options["json"]:
            self.stdout.write(json.dumps({"bodies": done.bodies, "lines": done.lines, "dryRun": dry}))
        else:
            would = "would be " if dry else ""
            self.stdout.write(f"{done.bodies} bodies {would}erased, {done.lines} ledger lines {would}deleted.")
