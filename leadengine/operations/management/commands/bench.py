"""Benches (spec/quality.md): what we reach beside what this machine can do."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from leadengine.embedded.processes import UnableToStart
from leadengine.operations.bench import ingest, send
from leadengine.operations.bench.report import Report
from leadengine.operations.bench.stage import Failed, open_stage

TOLERANCE_SHORT = 0.5  # a short run on a busy machine is content with half of a target


class Command(BaseCommand):
    help = (
        "Measure the way of a webhook to the database and to a screen (ingest), or of a message from a door to the "
        "broker (send), on servers and data of its own that are gone afterwards. Only ratios to floors of the same run "
        "are asserted. Example: manage.py bench ingest --assert"
    )
    requires_system_checks = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("what", choices=["ingest", "send"])
        parser.add_argument("--short", action="store_true", help="one run of under 40 s, for CI")
        parser.add_argument("--json", action="store_true", help="print JSON")
        parser.add_argument(
            "--assert", action="store_true", dest="asserts", help="exit 1 when a ratio misses its target"
        )
        parser.add_argument(
            "--explain", action="store_true", help="print the statements of one message of ingest, and end"
        )
        parser.add_argument("--data-dir", help="where the scratch data lie (default: beside the product's)")

    def handle(self, *_args: Any, **options: Any) -> None:
        data_dir = Path(options["data_dir"] or settings.DATA_DIR / f"bench-{os.getpid()}")
        try:
            if options["explain"]:
                asyncio.run(self._explain(data_dir))
                return
            report = asyncio.run(self._measure(options["what"], data_dir, short=options["short"]))
        except (Failed, UnableToStart, OSError) as error:
            raise CommandError(str(error)) from error
        print(json.dumps(report.as_json(), indent=2) if options["json"] else "\n".join(report.as_lines()))
        tolerance = TOLERANCE_SHORT if options["short"] else 1.0
        missed = [ratio.name for ratio in report.ratios if not ratio.holds(tolerance)]
        if options["asserts"] and missed:
            raise CommandError(f"Below target: {', '.join(missed)}")

    async def _measure(self, what: str, data_dir: Path, *, short: bool) -> Report:
        if what == "send":
            size = send.SHORT if short else send.FULL
            return await send.bench_send(data_dir=data_dir, size=size, say=self._say)
        whole = ingest.SHORT if short else ingest.FULL
        return await ingest.bench_ingest(data_dir=data_dir, size=whole, say=self._say)

    async def _explain(self, data_dir: Path) -> None:
        async with open_stage(data_dir) as stage:
            caught = await ingest.catch_statements(stage)
        for name, statements in (("a new contact", caught.new_worded), ("a known contact", caught.known_worded)):
            print(f"-- One message of {name}: {len(statements)} statements in one transaction")
            print("\n".join(f"{number:3}. {sql}" for number, sql in enumerate(statements, 1)), end="\n\n")

    def _say(self, text: str) -> None:
        """Where we are, on a terminal only."""
        if sys.stderr.isatty():
            self.stderr.write(f"  {text}")
