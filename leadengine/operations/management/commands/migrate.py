"""Django's migrate, as the role that owns the tables, and not without a fresh backup (spec/operations.md section 8)."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.management.base import CommandError, CommandParser
from django.core.management.commands import migrate
from django.db import connections
from django.db.migrations.executor import MigrationExecutor

from leadengine.errors import ConfigurationError


class Command(migrate.Command):
    stealth_options = ("unguarded",)  # backup_restore has a dump already

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.set_defaults(database="owner")
        parser.add_argument(
            "--backup-first", action="store_true", help="make a backup before anything pending is applied"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        if options["database"] == "owner" and "owner" not in settings.DATABASES:
            raise ConfigurationError(
                "ADMIN_DATABASE_URL is not set: migrations run as the role that owns the tables, leadengine_owner."
            )
        only_looks = options["plan"] or options["check_unapplied"]
        if not only_looks and not options.pop("unguarded", False):
            self._guard(options)
        super().handle(*args, **options)

    def _guard(self, options: dict[str, Any]) -> None:
        """Refuse to change a database with rows in it that nobody could bring back. Raises: CommandError."""
        from leadengine.operations.backups import BackupFailed, create_backup, has_fresh_backup

        if not _would_change(options) or not _has_rows(options["database"]):
            return
        if options["backup_first"]:
            try:
                path = create_backup(kind="pre_upgrade").path
            except BackupFailed as error:
                raise CommandError(f"Nothing was migrated: {error}") from error
            self.stdout.write(f"Backup: {path}")
        elif not settings.DEVELOPMENT and not has_fresh_backup():
            raise CommandError(
                "There are migrations to apply and no backup of the last 15 minutes: "
                "run `manage.py backup_create --kind pre_upgrade`, or migrate with --backup-first."
            )


def _would_change(options: dict[str, Any]) -> bool:
    executor = MigrationExecutor(connections[options["database"]])
    return bool(options["migration_name"] or executor.migration_plan(executor.loader.graph.leaf_nodes()))


def _has_rows(alias: str) -> bool:
    """Whether there is a tenant: of all tables with rows, one that the owner may read in full."""
    connection = connections[alias]
    with connection.cursor() as cursor:
        if "accounts_tenant" not in connection.introspection.table_names(cursor):
            return False
        cursor.execute("SELECT EXISTS (SELECT FROM accounts_tenant)")
        return bool(cursor.fetchone()[0])
