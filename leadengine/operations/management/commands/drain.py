"""The drain of the raw inbox as a loop (spec/inbound.md section 9)."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand

from leadengine.operations.drain_loop import run_drain
from leadengine.operations.stopping import stop_on_signals


class Command(BaseCommand):
    help = (
        "Process the raw inbox as soon as something comes, until SIGTERM: in place of the worker of whatsapp.inbound, "
        "or beside it. Set LEADENGINE_PROCESS=worker in its environment. Example: manage.py drain"
    )
    requires_system_checks = []

    def handle(self, *_args: Any, **_options: Any) -> None:
        run_drain(stopped=stop_on_signals())
