"""`manage.py reconnect_all`: connect at once everything that is wanted and is not connected."""

from __future__ import annotations

import json
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils import timezone

from leadengine.accounts.models import Tenant
from whatsapp.management.sessions import OPERATOR
from whatsapp.management.telling import BAD_USE, FOUND, LedgerCommand, stoppable
from whatsapp.services.persistence import PersistenceUnavailable
from whatsapp.services.sessions.acting import carry_out
from whatsapp.services.sessions.reconnecting import reconnect_all


class Command(LedgerCommand):
    help = (
        "Connects every wanted connection that is not connected, without the pauses of the reconnect policy. Also the "
        "answer to 'restart the sessions': nothing is logged out. Exit code 1: the broker has still to do some of it. "
        "Example: manage.py reconnect_all --tenant loja"
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--tenant", metavar="SLUG", help="only this tenant (default: all)")

    def handle(self, *_args: Any, **options: Any) -> None:
        tenant = Tenant.objects.filter(slug=options["tenant"]).first() if options["tenant"] else None
        if options["tenant"] and tenant is None:
            raise CommandError(f"There is no tenant {options['tenant']!r}.", returncode=BAD_USE)
        try:
            wished = reconnect_all(asker=OPERATOR, now=timezone.now(), tenant_id=tenant.pk if tenant else None)
        except PersistenceUnavailable as error:
            raise CommandError(str(error), returncode=FOUND) from error
        with stoppable(lambda: "what was wished stays wished; the workers go on."):
            pending = [session for session in wished if carry_out(session=session, asker=OPERATOR).pending]
        if options["json"]:
            self.stdout.write(json.dumps({"count": len(wished), "pending": len(pending)}))
        else:
            self.stdout.write(f"{len(wished)} connections are being connected, {len(pending)} wait for the broker.")
        self.end(FOUND if pending else 0)
