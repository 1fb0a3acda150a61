"""`manage.py prove_no_loss`: what came against what is here (spec/inbound.md section 14)."""

from __future__ import annotations

import json
import time
from threading import Event
from typing import Any

from django.core.management.base import CommandParser
from django.utils import timezone

from whatsapp.management.telling import FOUND, Bar, LedgerCommand, read_moment, stoppable
from whatsapp.services.proof import LISTED, STEPS, Proof, count_pending, prove_no_loss

_LOOK = 0.25


class Command(LedgerCommand):
    help = (
        "Proves that nothing the webhook accepted was lost or doubled, over all tenants, and lists each difference. "
        "Reads only. Exit code 0: proved; 1: differences; 2: bad use. "
        "Example: manage.py prove_no_loss --since 24h --wait 60"
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--since", default="24h", help="24h, 30m, 7d or an ISO time (default: 24h)")
        parser.add_argument("--until", help="likewise (default: now)")
        parser.add_argument(
            "--wait",
            type=float,
            default=0,
            metavar="SECONDS",
            help="first wait until nothing is pending, so long at most",
        )

    def handle(self, *_args: Any, **options: Any) -> None:
        with stoppable(lambda: "nothing was changed; start again."), Bar("waits", STEPS) as bar:
            if options["wait"]:
                _wait(options["wait"])
            now = timezone.now()
            since = read_moment(options["since"], now=now)
            until = read_moment(options["until"], now=now) if options["until"] else now
            proof = prove_no_loss(since=since, until=until, now=now, step=lambda what: bar.step(what=what))
        if options["json"]:
            self.stdout.write(json.dumps(proof.as_json(), indent=2))
        else:
            self._tell(proof)
        self.end(FOUND if proof.differences else 0)

    def _tell(self, proof: Proof) -> None:
        for name, number in proof.counts.items():
            self.stdout.write(f"  {name:<22}{number:>10}")
        for one in proof.differences:
            self.stdout.write(f"{one.check}: {one.id} {one.detail}")
        if proof.differences:
            self.stdout.write(f"{len(proof.differences)} differences (each check lists {LISTED} at most).")
        else:
            self.stdout.write("Nothing is lost, nothing is doubled.")


def _wait(seconds: float) -> None:
    """Look until nothing is pending; what still is when time is up, the proof will name."""
    end = time.monotonic() + seconds
    looks = Event()
    while count_pending(now=timezone.now()) and time.monotonic() < end:
        looks.wait(_LOOK)
