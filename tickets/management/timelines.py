"""What `reconcile_timelines` and `backfill_timelines` share: whose tickets, since when, and how a run is told."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Sequence
from datetime import date, datetime, time, timedelta
from typing import Any
from uuid import UUID

import structlog
from django.core.management.base import CommandError, CommandParser, OutputWrapper
from django.utils import timezone

from leadengine.accounts.models import Tenant
from leadengine.accounts.scopes import service_scope
from tickets.services.timeline import Drift
from tickets.services.timeline_runs import BATCH, Result, check_timelines, reconcile_timelines

log = structlog.get_logger(__name__)
_SPAN = re.compile(r"(\d{1,6})(m|h|d)")
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}


def add_common_arguments(parser: CommandParser, *, since: str | None) -> None:
    """`--tenant`, `--since`, `--batch`, `--dry-run` and `--json`."""
    parser.add_argument("--tenant", metavar="SLUG", help="only this tenant (default: all)")
    parser.add_argument(
        "--since",
        default=since,
        help=f"only tickets that changed since: 48h, 7d, or a date (default: {since or 'all'})",
    )
    parser.add_argument("--batch", type=int, default=BATCH, help=f"tickets a transaction (default: {BATCH})")
    parser.add_argument("--dry-run", action="store_true", help="say what is wrong and change nothing")
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def find_tenants(slug: str | None) -> list[tuple[UUID, str]]:
    """The tenants to look at, as (id, slug). Raises: CommandError for one that does not exist."""
    with service_scope("list tenants"):
        rows = Tenant.objects.order_by("slug")
        found = list((rows.filter(slug=slug) if slug else rows).values_list("pk", "slug"))
    if slug and not found:
        raise CommandError(f"There is no tenant {slug}.")
    return found


def read_since(text: str | None, *, now: datetime) -> datetime | None:
    """The time that `48h`, `7d`, `2026-11-01` or an ISO date and time means. Raises: CommandError."""
    if text is None:
        return None
    if span := _SPAN.fullmatch(text):
        return now - timedelta(**{_UNITS[span[2]]: int(span[1])})
    try:
        at = datetime.combine(date.fromisoformat(text), time()) if len(text) == 10 else datetime.fromisoformat(text)
    except ValueError as error:
        raise CommandError(f"--since must be like 48h, 7d or 2026-11-01, not {text!r}.") from error
    return at if timezone.is_aware(at) else timezone.make_aware(at)


class Report:
    """What a command prints: as it goes for people, at the end as JSON."""

    def __init__(self, out: OutputWrapper, *, as_json: bool, dry_run: bool, details: bool) -> None:
        self._out, self._as_json, self._dry_run, self._details = out, as_json, dry_run, details
        self._bar = sys.stderr if sys.stderr.isatty() else None
        self._tenants: list[dict[str, Any]] = []
        self.changed = 0
        self.failed: list[str] = []

    def run(self, tenant_id: UUID, slug: str, *, since: datetime | None, batch: int) -> None:
        """Run over one tenant; a failure is told, and costs only this tenant."""
        told: list[dict[str, Any]] = []

        def tell(result: Result, drifts: Sequence[Drift]) -> None:
            if self._bar is not None:
                self._bar.write(f"\r  {slug}: {result.checked} / {result.total}\033[K")
            if self._details:
                told.extend(self._tell(slug, drifts))

        service: Callable[..., Result] = check_timelines if self._dry_run else reconcile_timelines
        try:
            result = service(tenant_id=tenant_id, since=since, batch=batch, tell=tell)
        except Exception as error:
            log.exception("timeline_run_failed", tenant_id=str(tenant_id))
            self.failed.append(slug)
            self._tenants.append({"tenant": slug, "error": type(error).__name__})
            return
        finally:
            if self._bar is not None:
                self._bar.write("\r\033[K")
        self.changed += result.changed
        self._tenants.append(_summary(slug, result) | ({"tickets": told} if self._details else {}))
        if not self._as_json:
            word = "wrong" if self._dry_run else "repaired"
            self._out.write(f"{slug}: {result.checked} tickets checked, {result.changed} {word}\n")

    def end(self) -> None:
        """The JSON document. Raises: CommandError when a tenant failed."""
        if self._as_json:
            self._out.write(json.dumps({"dryRun": self._dry_run, "tenants": self._tenants}, ensure_ascii=False) + "\n")
        if self.failed:
            raise CommandError(f"Not done for {', '.join(self.failed)}: see the log, and start it again.")

    def _tell(self, slug: str, drifts: Sequence[Drift]) -> list[dict[str, Any]]:
        rows = [(drift, drift.shown()) for drift in drifts]
        if self._as_json:
            return [
                {"ticketId": str(drift.state.id), "protocol": drift.protocol, "changes": changes}
                for drift, changes in rows
            ]
        for drift, changes in rows:
            self._out.write(f"{slug} {drift.protocol}\n")
            for name, (stored, computed) in changes.items():
                self._out.write(f"  {name}: {_shown(stored)} -> {_shown(computed)}\n")
        return []


def _summary(slug: str, result: Result) -> dict[str, Any]:
    return {
        "tenant": slug,
        "runId": str(result.run_id),
        "startedAt": result.started_at.isoformat(),
        "finishedAt": result.finished_at.isoformat(),
        "ticketsChecked": result.checked,
        "ticketsChanged": result.changed,
        "fields": dict(result.fields),
    }


def _shown(value: Any) -> str:
    return "-" if value in {None, ""} else str(value)
