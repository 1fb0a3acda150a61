"""`manage.py sync_sessions`: bring connections and broker together now (spec/sessions.md section 8)."""

from __future__ import annotations

import json
from typing import Any

from django.core.management.base import CommandError
from django.utils import timezone

from leadengine.errors import NotConfigured
from whatsapp.adapters import get_adapter
from whatsapp.broker_errors import BrokerError
from whatsapp.management.telling import FOUND, LedgerCommand, stoppable
from whatsapp.services.sessions.syncing import sync_sessions


class Command(LedgerCommand):
    help = (
        "Asks the broker for all connections, corrects what drifted and does what is wished. Beat does it every "
        "WHATSAPP_RECONNECT_INTERVAL seconds. Exit code 1: the broker does not answer. Example: manage.py sync_sessions"
    )

    def handle(self, *_args: Any, **options: Any) -> None:
        try:
            get_adapter().require_configured()
            get_adapter().overview()
        except (BrokerError, NotConfigured) as error:
            raise CommandError(f"{error.code}: {error}", returncode=FOUND) from error
        with stoppable(lambda: "beat goes on with it."):
            looked = sync_sessions(now=timezone.now(), everything=True)
        if options["json"]:
            self.stdout.write(json.dumps({"looked": looked}))
        else:
            self.stdout.write(f"{looked} connections looked at.")
