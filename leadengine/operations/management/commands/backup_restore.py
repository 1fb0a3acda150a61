"""Brings a backup back: the four steps of seed 002 (spec/operations.md section 8)."""

from __future__ import annotations

import sys
from typing import Any

from django.core.management.base import CommandError, CommandParser

from leadengine.operations.backups import restore_backup
from leadengine.operations.management.reporting import FileCommand


class Command(FileCommand):
    help = (
        "Replace the whole database by a backup, in one transaction, and bring the services back; prints the four "
        "steps with their times. The present state is dumped first. Example: manage.py backup_restore --latest --yes"
    )

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("--yes", action="store_true", help="do not ask")

    def work(self, options: dict[str, Any]) -> Any:
        backup = self.backup(options)
        if not options["yes"]:
            self._ask(f"Replace the whole database by {backup.path.name} of {backup.created_at:%F %T} UTC? [yes/no] ")
        return restore_backup(backup, say=(lambda _line: None) if options["as_json"] else self.stdout.write)

    def tell(self, done: Any) -> str:
        seconds = sum(step["seconds"] for step in done["steps"])
        sessions = done["sessions"]
        return (
            f"{done['file']} is back: {done['rows']} rows in {seconds:.1f} s, {sessions['expected']} sessions "
            f"expected, {sessions['lost']} still to come, message {done['smoke']}. What was before: "
            f"{done['preRestore']}"
        )

    def _ask(self, question: str) -> None:
        if not sys.stdin.isatty():
            raise CommandError("This replaces the whole database: say --yes.")
        if input(question).strip().lower() != "yes":
            raise CommandError("Nothing was changed.")
