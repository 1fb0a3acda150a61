"""`manage.py queue_status`: what waits in each task queue (spec/operations.md section 6)."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from django.core.management.base import CommandParser

from leadengine.operations.management.reporting import ReportCommand
from leadengine.operations.queues import find_queue, list_queues


class Command(ReportCommand):
    help = "Show what waits in each task queue, or in one. Example: manage.py queue_status whatsapp.inbound"

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("name", nargs="?", help="one queue (default: all)")

    def work(self, options: dict[str, Any]) -> Any:
        queues = [find_queue(options["name"])] if options["name"] else list_queues()
        return [asdict(queue) for queue in queues]

    def tell(self, done: Any) -> str:
        return "\n".join(f"{row['name']:<24} {row['messages']:>8} to do, served by {row['consumers']}" for row in done)
