"""Prints docs/reference/metrics.md."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand

from leadengine.operations.metrics_reference import render_reference


class Command(BaseCommand):
    help = "Print the page of all metrics. Example: manage.py metrics_reference > docs/reference/metrics.md"
    requires_system_checks = []

    def handle(self, *_args: Any, **_options: Any) -> None:
        print(render_reference(), end="")
