"""Compares the protected files with their approved hashes (docs/protected.toml)."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from leadengine.operations.protection import Change, VersionTaken, approve_changes, find_breaches, write_page

MOST = 200  # of ProtectedChange.change


class Command(BaseCommand):
    help = (
        "Fail when a protected file has changed without an entry in docs/protected.toml, or when the page "
        "docs/CHANGES-PROTECTED.md does not equal the change log. Example: manage.py protected_check --update "
        '--release 1.3.0 --change "Correção da reconexão" --approved-by Ana --approved-by Bruno'
    )
    requires_system_checks = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--update", action="store_true", help="add an entry that approves the files as they are")
        parser.add_argument("--release", default="", help="with --update: the version of the entry, such as 1.3.0")
        parser.add_argument("--change", default="", help="with --update: what was changed, one line")
        parser.add_argument("--approved-by", action="append", default=[], help="with --update: who approved it")
        parser.add_argument("--write", action="store_true", help="write docs/CHANGES-PROTECTED.md")
        parser.add_argument("--root", default=str(settings.BASE_DIR), help="another checkout than this one")
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, *_args: Any, root: str, **options: Any) -> None:
        if options["update"]:
            self._update(Path(root), options)
        elif options["write"]:
            write_page(Path(root))
        breaches = find_breaches(Path(root))
        if options["json"]:
            print(json.dumps({"ok": not breaches, "breaches": breaches}, ensure_ascii=False))
        else:
            print("\n".join(breaches) or "All protected files are as they were approved.")
        if breaches:
            sys.exit(1)

    def _update(self, root: Path, options: dict[str, Any]) -> None:
        if not options["release"] or not options["change"]:
            raise CommandError("--update needs --release and --change.")
        if len(options["change"]) > MOST:
            raise CommandError(f"--change is longer than {MOST} characters: shorten it.")  # the table refuses it later
        change = Change(
            date=timezone.localdate(),
            version=options["release"],
            change=options["change"],
            approved_by=tuple(options["approved_by"]),
        )
        try:
            approve_changes(root=root, change=change)
        except VersionTaken as error:
            raise CommandError(error.message) from error
