"""`manage.py session_status`: how connections are, from the database alone."""

from __future__ import annotations

import json
from typing import Any

from django.core.management.base import CommandParser
from django.utils import timezone

from leadengine.accounts.scopes import service_scope
from whatsapp.management.sessions import as_json, find_session
from whatsapp.management.telling import FOUND, LedgerCommand
from whatsapp.models import WhatsAppSession
from whatsapp.services.lines import evidence_of


class Command(LedgerCommand):
    help = (
        "Shows every connection, or one: its status, what is wanted, what is wrong and what to do. Asks nobody but the "
        "database. Exit code 0: each wanted connection is connected; 1: one is not, or there is no such connection; "
        "2: several have that name. Example: manage.py session_status Vendas"
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("name", nargs="?", help="its name, connection id or id (default: all)")

    def handle(self, *_args: Any, **options: Any) -> None:
        now, name = timezone.now(), options["name"]
        if name:
            sessions = [find_session(name)]
        else:
            with service_scope("status of all sessions"):
                rows = WhatsAppSession.objects.filter(deleted_at=None).select_related("owner", "tenant")
                sessions = list(rows.order_by("tenant__slug", "session_name"))
        if options["json"]:
            found = [as_json(session, now) for session in sessions]
            self.stdout.write(json.dumps(found[0] if name else found, ensure_ascii=False, indent=2))
        else:
            for session in sessions:
                stale = " (stale)" if evidence_of(session, now)["stale"] else ""
                self.stdout.write(
                    f"{session.tenant.slug:<16} {session.session_name:<24} {session.connection_id:<32} "
                    f"{session.status}{stale}"
                )
                if session.last_error:
                    self.stdout.write(f"    {session.last_error['message']} {session.last_error['action']}")
        self.end(FOUND if any(one.desired_state == "connected" and not one.connected for one in sessions) else 0)
