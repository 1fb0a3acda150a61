"""The demo of `manage.py up` (spec/run.md section 1): harmless when it is there."""

from __future__ import annotations

import os
from typing import Any

import requests
from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from leadengine.operations.demo import DemoPeople, seed_demo
from leadengine.operations.provisioning import UnableToProvision

# What `up` gives: arguments of this command, and no settings of the product.
VARIABLES = {
    "admin": "DEMO_ADMIN_EMAIL",
    "supervisor": "DEMO_SUPERVISOR_EMAIL",
    "agent": "DEMO_AGENT_EMAIL",
    "agent2": "DEMO_AGENT2_EMAIL",
    "outsider": "DEMO_OUTSIDER_EMAIL",
    "superuser": "SUPERUSER_EMAIL",
    "password": "DEMO_PASSWORD",
    "api_token": "DEMO_API_TOKEN",
    "outsider_token": "OUTSIDER_API_TOKEN",
}


class Command(BaseCommand):
    help = (
        "Make the demo tenants from the variables of run.env, and with the simulator as broker bring its customers to "
        "life. Example: set -a; . .data/run.env; set +a; manage.py seed_demo"
    )
    requires_system_checks = []

    def handle(self, *_args: Any, **_options: Any) -> None:
        missing = [name for name in VARIABLES.values() if not os.environ.get(name)]
        if missing:
            raise CommandError(f"Set {', '.join(missing)}: `manage.py up` writes them to run.env.")
        people = DemoPeople(**{field: os.environ[name] for field, name in VARIABLES.items()})
        try:
            seed_demo(people=people, now=timezone.now())
        except (UnableToProvision, requests.RequestException) as error:
            raise CommandError(f"The demo cannot be made: {error}") from error
