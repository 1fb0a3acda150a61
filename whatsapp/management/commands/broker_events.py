"""`manage.py broker_events`: follow the broker's stream in the foreground (spec/sessions.md section 8)."""

from __future__ import annotations

import json
import signal
import sys
from contextlib import suppress
from typing import Any

from django.core.management.base import CommandError

from leadengine.errors import NotConfigured
from whatsapp.adapters import get_adapter
from whatsapp.management.telling import FOUND, LedgerCommand
from whatsapp.services.sessions import listening


class Command(LedgerCommand):
    help = (
        "Follows the broker's events until it is stopped; each only makes a worker look at that connection. The sender "
        "does this by itself; of several processes one listens and the others wait. Exit code 1: no broker is "
        "configured. Example: manage.py broker_events"
    )

    def handle(self, *_args: Any, **options: Any) -> None:
        try:
            get_adapter().require_configured()
        except NotConfigured as error:
            raise CommandError(str(error), returncode=FOUND) from error
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # a quiet stream would not notice a flag for 25 s
        self.stdout.write(json.dumps({"listening": True}) if options["json"] else "Listening; Ctrl-C ends it.")
        self.stdout.flush()
        with suppress(KeyboardInterrupt):
            listening.listen()
