"""`manage.py flag_idle_sessions`: flag connections without traffic (spec/sessions.md section 8)."""

from __future__ import annotations

import json
from typing import Any

from django.core.management.base import CommandError
from django.utils import timezone

from whatsapp.management.telling import FOUND, LedgerCommand
from whatsapp.services.persistence import PersistenceUnavailable
from whatsapp.services.sessions.keeping import flag_idle_sessions


class Command(LedgerCommand):
    help = (
        "Flags connected sessions without a message or an ack for WHATSAPP_IDLE_REAUTH_DAYS days: they stay connected, "
        "and somebody should see whether the phone is still there. Runs every night by itself. Exit code 1: it could "
        "not be saved. Example: manage.py flag_idle_sessions"
    )

    def handle(self, *_args: Any, **options: Any) -> None:
        try:
            flagged = flag_idle_sessions(now=timezone.now())
        except PersistenceUnavailable as error:
            raise CommandError(str(error), returncode=FOUND) from error
        self.stdout.write(json.dumps({"flagged": flagged}) if options["json"] else f"{flagged} newly flagged.")
