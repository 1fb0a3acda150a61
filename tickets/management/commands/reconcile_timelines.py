"""`manage.py reconcile_timelines`: counters and timelines against the stored messages (spec/tickets-leads.md 7)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from tickets.management.timelines import Report, add_common_arguments, find_tenants, read_since

if TYPE_CHECKING:
    from django.core.management.base import CommandParser

DRIFT = 2


class Command(BaseCommand):
    help = (
        "Compare the counters and the timeline of each ticket with its messages, print what differs as `field: stored "
        "-> computed`, and repair it. Exit code 0, 1 on failure, 2 with --fail-on-drift when something was wrong. "
        "Example: manage.py reconcile_timelines --tenant ipe --since 48h --dry-run --fail-on-drift"
    )
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        add_common_arguments(parser, since=f"{settings.TIMELINE_RECONCILE_SINCE_HOURS}h")
        parser.add_argument("--fail-on-drift", action="store_true", help="exit 2 when something was wrong")

    def handle(self, *_args: Any, **options: Any) -> None:
        since = read_since(options["since"], now=timezone.now())
        report = Report(self.stdout, as_json=options["json"], dry_run=options["dry_run"], details=True)
        for tenant_id, slug in find_tenants(options["tenant"]):
            report.run(tenant_id, slug, since=since, batch=max(1, options["batch"]))
        report.end()
        if report.changed and options["fail_on_drift"]:
            raise CommandError(f"{report.changed} tickets were not what their messages say.", returncode=DRIFT)
