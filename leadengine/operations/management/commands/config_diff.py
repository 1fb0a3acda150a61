"""Compares two configuration snapshots (spec/operations.md section 8)."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandParser

from leadengine.operations.management.reporting import ReportCommand
from leadengine.operations.snapshots import compare, find_snapshot


class Command(ReportCommand):
    help = "Print what differs between two versions of the configuration. Example: manage.py config_diff 3 4"

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("before", type=int, metavar="A")
        parser.add_argument("after", type=int, metavar="B")

    def work(self, options: dict[str, Any]) -> Any:
        return compare(find_snapshot(options["before"]).data, find_snapshot(options["after"]).data)

    def tell(self, done: Any) -> str:
        return "\n".join(f"{one['path']}: {one['before']!r} → {one['after']!r}" for one in done) or "Nothing differs."
