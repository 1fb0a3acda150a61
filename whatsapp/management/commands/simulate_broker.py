"""Serves the broker simulator: a WhatsApp broker and its customers on this machine."""

from __future__ import annotations

import sys
from argparse import Namespace
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from whatsapp.simulator.cli import add_arguments, run


class Command(BaseCommand):
    """`manage.py simulate_broker`; it touches neither the database nor any other part of the product."""

    help = "Serves a WhatsApp broker with fictional customers, for demo, tests and load."
    requires_system_checks = []

    def add_arguments(self, parser: CommandParser) -> None:
        """Adds the arguments of the simulator."""
        add_arguments(parser)

    def handle(self, *_args: Any, **options: Any) -> None:
        """Serves until it is told to end."""
        if code := run(Namespace(**options)):
            sys.exit(code)
