"""Django's migrate, as the role that owns the tables: the application role may not change them."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.management.base import CommandParser
from django.core.management.commands import migrate

from leadengine.errors import ConfigurationError


class Command(migrate.Command):
    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.set_defaults(database="owner")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["database"] == "owner" and "owner" not in settings.DATABASES:
            raise ConfigurationError(
                "ADMIN_DATABASE_URL is not set: migrations run as the role that owns the tables, leadengine_owner."
            )
        super().handle(*args, **options)
