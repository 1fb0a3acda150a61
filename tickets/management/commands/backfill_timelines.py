"""`manage.py backfill_timelines`: counters and timelines made anew from the messages (spec/tickets-leads.md 7)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.core.management.base import BaseCommand
from django.utils import timezone

from tickets.management.timelines import Report, add_common_arguments, find_tenants, read_since

if TYPE_CHECKING:
    from django.core.management.base import CommandParser


class Command(BaseCommand):
    help = (
        "Make the counters and the timeline of every ticket anew from its messages, in batches, beside live traffic. "
        "A ticket that is right is not touched, so it may be stopped at any moment and started again. "
        "Example: manage.py backfill_timelines --tenant ipe --since 2026-01-01"
    )
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        add_common_arguments(parser, since=None)

    def handle(self, *_args: Any, **options: Any) -> None:
        since = read_since(options["since"], now=timezone.now())
        report = Report(self.stdout, as_json=options["json"], dry_run=options["dry_run"], details=False)
        for tenant_id, slug in find_tenants(options["tenant"]):
            report.run(tenant_id, slug, since=since, batch=max(1, options["batch"]))
        report.end()
