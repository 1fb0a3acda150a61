"""`manage.py merge_contacts`: heals duplicates of the past (spec/inbound.md section 14)."""

from __future__ import annotations

import json
import sys
from typing import Any
from uuid import UUID

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from leadengine.accounts.models import Tenant
from leadengine.accounts.scopes import service_scope
from leads.models import ContactMerge
from leads.services import Duplicate, merge_phone_variants

FOUND, BAD_USE = 1, 2


class Command(BaseCommand):
    help = (
        "Merge contacts whose numbers are one Brazilian mobile with and without its ninth digit into the oldest, one "
        "report line each. Stopped, it can be started again; pairs that a person has parted stay apart. Exit code 1: "
        "duplicates were found and remain. Example: manage.py merge_contacts --evidence phone_variant --dry-run"
    )
    requires_system_checks = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--evidence", required=True, choices=[ContactMerge.Evidence.PHONE_VARIANT.value], help="what proves it"
        )
        parser.add_argument("--tenant", metavar="SLUG", help="one tenant only")
        parser.add_argument("--dry-run", action="store_true", help="only print what would be merged")
        parser.add_argument("--json", action="store_true", help="one JSON object per line")

    def handle(self, *_args: Any, tenant: str | None, dry_run: bool, **options: Any) -> None:
        with service_scope("tenants of merge_contacts"):
            rows = Tenant.objects.filter(is_active=True).order_by("slug")
            tenants = dict((rows.filter(slug=tenant) if tenant else rows).values_list("pk", "slug"))
        if not tenants:
            raise CommandError("No such tenant.", returncode=BAD_USE)
        left = 0
        for tenant_id, slug in tenants.items():
            for found in merge_phone_variants(tenant_id=tenant_id, now=timezone.now(), dry_run=dry_run):
                left += not found.merges
                self.stdout.write(_line(slug, found, dry_run, as_json=options["json"]))
        if left:
            sys.exit(FOUND)


def _line(slug: str, found: Duplicate, dry_run: bool, *, as_json: bool) -> str:
    target, *sources = found.contacts
    result = "would merge" if dry_run else "merged" if found.merges else "kept apart"
    if as_json:
        line = {"tenant": slug, "target": target, "sources": sources, "merges": found.merges, "result": result}
        return json.dumps(line, default=_plain)
    return f"{slug}: {result} {', '.join(map(str, sources))} into {target}"


def _plain(value: Any) -> str:
    assert isinstance(value, UUID)  # noqa: S101 - nothing else is in a line
    return str(value)
