"""The clock of the product (spec/operations.md section 6)."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand

from leadengine.celery import app
from leadengine.operations.schedule import run_beat
from leadengine.operations.stopping import stop_on_signals


class Command(BaseCommand):
    help = (
        "Send the periodic tasks until SIGTERM. A second beat waits until the first one ends. "
        "Set LEADENGINE_PROCESS=beat in its environment. Example: manage.py beat"
    )
    requires_system_checks = []

    def handle(self, *_args: Any, **_options: Any) -> None:
        run_beat(app=app, stopped=stop_on_signals())
