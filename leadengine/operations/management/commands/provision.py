"""Creates or updates tenants from a file (spec/run.md section 3)."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import requests
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from leadengine.operations.provisioning import ProvisionFile, UnableToProvision, provision_tenants, read_file
from leadengine.operations.simulated import Line, find_simulator


class Command(BaseCommand):
    help = (
        "Create or update tenants with their users, queues, sessions and API keys, in one transaction, and print what "
        "was done as JSON. A token is printed once, when it is made. Example: manage.py provision --file tenants.json"
    )
    requires_system_checks = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--file", required=True, help="a JSON file, or - for standard input")

    def handle(self, *_args: Any, file: str, **_options: Any) -> None:
        try:
            text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
            wanted = read_file(text)
            done = provision_tenants(file=wanted, now=timezone.now())
        except (OSError, UnicodeDecodeError) as error:
            raise CommandError(f"{file} cannot be read: {error}") from error
        except UnableToProvision as error:
            raise CommandError(error.message) from error
        print(json.dumps(done, ensure_ascii=False, indent=2))
        self._open_lines(wanted)

    def _open_lines(self, file: ProvisionFile) -> None:
        """What is connected here is open at the simulator, when that is the broker."""
        lines = [
            Line(part.broker_instance_id or part.connection_id, part.name or part.connection_id, part.phone_number)
            for _, _, part in file.each("sessions")
            if part.status == "connected"
        ]
        simulator = find_simulator() if lines else None
        if simulator is None:
            return
        try:
            simulator.open(lines)
        except requests.RequestException as error:
            raise CommandError(f"All was stored, but the simulator did not open the lines: {error}") from error
