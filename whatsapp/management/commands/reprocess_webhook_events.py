"""`manage.py reprocess_webhook_events`: stored events once more from their raw bytes (spec/inbound.md section 14)."""

from __future__ import annotations

import json
from collections import Counter
from threading import Event
from typing import Any
from uuid import UUID

from django.core.management.base import CommandError, CommandParser
from django.utils import timezone

from whatsapp.management.telling import BAD_USE, FOUND, Bar, LedgerCommand, read_moment, stoppable
from whatsapp.models import WebhookEvent, WebhookItem
from whatsapp.services.drain import drain_inbox
from whatsapp.services.reprocessing_runs import BATCH, Selection, count_fates, find_events, is_waiting, run_again

_LOOK = 0.1
FATES = tuple(WebhookItem.Fate.values)


class Command(LedgerCommand):
    help = (
        "Runs stored webhook events again from their raw bytes and prints how their items ended. Idempotent: what an "
        "event did already is not done twice, so it may be stopped and started again. Orphans and rejected bodies only "
        "run when --event, --status or --reason names them. Exit code 1: something failed or could not run. "
        "Example: manage.py reprocess_webhook_events --fate failed --since 24h --dry-run"
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--event", action="append", type=_uuid, default=[], metavar="ID", help="may be repeated")
        parser.add_argument("--fate", choices=FATES, help="events with an item of this fate")
        parser.add_argument("--reason", help="events, or events with an item, of this reason")
        parser.add_argument("--status", choices=WebhookEvent.Status.values, help="events of this status")
        parser.add_argument("--session", type=_uuid, metavar="ID", help="events of this session")
        parser.add_argument("--since", help="received since: 24h, 30m, 7d or an ISO time")
        parser.add_argument("--until", help="received before")
        parser.add_argument("--limit", type=int, metavar="N", help="the oldest N of them")
        parser.add_argument("--dry-run", action="store_true", help="only print the fates they have now")

    def handle(self, *_args: Any, **options: Any) -> None:
        now = timezone.now()
        if options["limit"] is not None and options["limit"] < 1:
            raise CommandError("--limit must be 1 or more.", returncode=BAD_USE)
        selection = Selection(
            ids=tuple(options["event"]), fate=options["fate"], reason=options["reason"], status=options["status"],
            session_id=options["session"],
            since=read_moment(options["since"], now=now) if options["since"] else None,
            until=read_moment(options["until"], now=now) if options["until"] else now,
        )  # fmt: skip
        fates: Counter[str] = Counter()
        left: Counter[str] = Counter()
        events, last = 0, None
        with stoppable(lambda: "what ran is done; start again to go on."), Bar("events", options["limit"]) as bar:
            while ids := find_events(selection, after=last, most=self._most(options["limit"], events)):
                last = ids[-1]
                if not options["dry_run"]:
                    left += run_again(ids=ids, now=timezone.now())
                    _drain(ids)
                fates += count_fates(ids)
                events += len(ids)
                bar.step(len(ids))
        self._tell(options, events, fates, left)
        if selection.ids and events < len(set(selection.ids)):
            raise CommandError("Some of these events do not exist.", returncode=BAD_USE)
        self.end(FOUND if not options["dry_run"] and (left or fates["failed"]) else 0)

    def _most(self, limit: int | None, done: int) -> int:
        return BATCH if limit is None else max(0, min(BATCH, limit - done))

    def _tell(self, options: dict[str, Any], events: int, fates: Counter[str], left: Counter[str]) -> None:
        if options["json"]:
            found = {"events": events, "fates": dict(fates), "notRun": dict(left), "dryRun": options["dry_run"]}
            self.stdout.write(json.dumps(found))
            return
        self.stdout.write(f"{events} events{' would run' if options['dry_run'] else ' ran'} again.")
        for fate, number in sorted(fates.items()):
            self.stdout.write(f"  {fate:<12}{number:>8}")
        for cause, number in sorted(left.items()):
            self.stdout.write(f"  not run, {cause}: {number}")


def _drain(ids: list[UUID]) -> None:
    """Drain until none of these is waiting; a worker beside us may be the one that takes them."""
    looks = Event()
    while True:
        drain_inbox()
        if not is_waiting(ids, now=timezone.now()):
            return
        looks.wait(_LOOK)


def _uuid(word: str) -> UUID:
    return UUID(word)
