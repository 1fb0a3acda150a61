"""`manage.py queue_purge`: empties a task queue without losing anything (spec/operations.md section 6)."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils import timezone

from leadengine.operations.management.reporting import ReportCommand
from leadengine.operations.queues import purge_queue


class Command(ReportCommand):
    help = (
        "Empty a task queue. Messages that wait to be sent end as failed and can be sent again; of the other queues "
        "only wake-ups are dropped. Example: manage.py queue_purge whatsapp.send.messages --yes"
    )

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("name", help="the queue: see manage.py queue_status")
        parser.add_argument("--yes", action="store_true", help="do it; without this nothing happens")

    def work(self, options: dict[str, Any]) -> Any:
        if not options["yes"]:
            raise CommandError(f"This empties {options['name']}: say --yes.")
        return {"queue": options["name"], "purged": purge_queue(name=options["name"], now=timezone.now())}

    def tell(self, done: Any) -> str:
        return f"{done['queue']}: {done['purged']} taken out."
