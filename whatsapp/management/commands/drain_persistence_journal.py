"""`manage.py drain_persistence_journal`: replay the journal of facts now (spec/sessions.md section 4)."""

from __future__ import annotations

import json
from typing import Any

from django.utils import timezone

from whatsapp.management.telling import FOUND, LedgerCommand
from whatsapp.services.journal import replay_journal
from whatsapp.services.sessions.observing import APPLIERS


class Command(LedgerCommand):
    help = (
        "Saves what the broker did while the database was away, from the files in PERSISTENCE_JOURNAL_DIR. Runs every "
        "30 s by itself. Exit code 0: nothing waits; 1: lines remain. Example: manage.py drain_persistence_journal"
    )

    def handle(self, *_args: Any, **options: Any) -> None:
        done = replay_journal(appliers=APPLIERS, now=timezone.now())
        if options["json"]:
            self.stdout.write(json.dumps(done.as_json()))
        else:
            self.stdout.write(
                f"{done.applied} applied, {done.superseded} superseded, {done.failed} failed, {done.left} left."
            )
        self.end(FOUND if done.left else 0)
