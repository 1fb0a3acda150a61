"""Looks at what has to be right in production."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from leadengine.operations.production import examine_production


class Command(BaseCommand):
    help = (
        "Print a line per item, PASS, WARN or FAIL; exit 1 when one fails. Example: manage.py production_check --json"
    )
    requires_system_checks = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help="print a JSON list")

    def handle(self, *_args: Any, **options: Any) -> None:
        findings = examine_production()
        if options["json"]:
            print(json.dumps([asdict(one) for one in findings], ensure_ascii=False))
        else:
            print("\n".join(f"{one.level}  {one.item}: {one.words}" for one in findings))
        if any(one.level == "FAIL" for one in findings):
            sys.exit(1)
