"""The base of commands that print what they did: `--json` for programs, lines for people, 1 for a failure."""

from __future__ import annotations

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from leadengine.errors import DomainError
from leadengine.operations.backups import Backup, BackupFailed, find_backup, latest_backup
from leadengine.operations.snapshots import UnknownSnapshot


class ReportCommand(BaseCommand):
    """A command that returns JSON from `work` and puts it into words with `tell`."""

    requires_system_checks = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", dest="as_json", help="print JSON")

    def handle(self, *_args: Any, **options: Any) -> None:
        try:
            done = self.work(options)
        except (BackupFailed, UnknownSnapshot, DomainError) as error:
            raise CommandError(str(error)) from error
        self.stdout.write(
            json.dumps(done, ensure_ascii=False, indent=2, default=str) if options["as_json"] else self.tell(done)
        )

    def work(self, options: dict[str, Any]) -> Any:
        """Do it; returns what is printed as JSON. Raises: BackupFailed, UnknownSnapshot, DomainError."""
        raise NotImplementedError

    def tell(self, done: Any) -> str:
        """The same for people."""
        raise NotImplementedError


class FileCommand(ReportCommand):
    """A command on one backup: FILE or --latest."""

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("file", nargs="?", help="a backup: its path, or its name in BACKUP_DIR")
        parser.add_argument("--latest", action="store_true", help="the newest backup of everything")

    def backup(self, options: dict[str, Any]) -> Backup:
        """The backup that the command line names. Raises: CommandError, BackupFailed."""
        file, latest = options["file"], options["latest"]
        if bool(file) == latest:
            raise CommandError("Name a FILE, or say --latest.")
        return find_backup(file) if file else latest_backup()
