"""`manage.py chaos sessions`: hurt the product while it works, and prove that nothing promised is lost."""

from __future__ import annotations

import json
import os
import secrets
import sys
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from leadengine.operations.chaos.product import Failed, start_product
from leadengine.operations.chaos.sessions import chaos_sessions

KILLS = 200


class Command(BaseCommand):
    help = (
        "Starts a product of its own, changes connections over the API from several threads while it kills web, "
        "worker, sender and Valkey with -9, cuts connections to the database and restarts PostgreSQL, and proves: "
        "every acknowledged wish is in the database, every wanted connection is back within 30 s, the journal is "
        "empty. Its data are gone afterwards. Exit code 1: not so. Example: manage.py chaos sessions --kills 40"
    )
    requires_system_checks = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("what", choices=["sessions"])
        parser.add_argument("--kills", type=int, default=KILLS, metavar="N", help=f"how many (default: {KILLS})")
        parser.add_argument("--seed", type=int, help="whom to kill when; printed, so that a run can be repeated")
        parser.add_argument("--json", action="store_true", help="print JSON")
        parser.add_argument("--data-dir", help="where the scratch data lie (default: beside the product's)")

    def handle(self, *_args: Any, **options: Any) -> None:
        data_dir = Path(options["data_dir"] or settings.DATA_DIR / f"chaos-{os.getpid()}")
        seed = secrets.randbits(32) if options["seed"] is None else options["seed"]
        data_dir.parent.mkdir(parents=True, exist_ok=True)
        done = 0

        def step(name: str) -> None:
            nonlocal done
            done += 1
            if sys.stderr.isatty():
                sys.stderr.write(f"\r\033[K  {done}/{options['kills']} {name}")
                sys.stderr.flush()

        try:
            with start_product(data_dir) as product:
                outcome = chaos_sessions(product=product, kills=options["kills"], seed=seed, step=step)
        except Failed as error:
            raise CommandError(f"{error} (seed {seed})") from error
        except KeyboardInterrupt:
            sys.exit(130)
        if options["json"]:
            self.stdout.write(json.dumps({"seed": seed, **outcome.as_json()}, indent=2, ensure_ascii=False))
        else:
            self.stdout.write("\n".join([f"  {'seed':<26}{seed}", *outcome.as_lines()]))
        if not outcome.good:
            sys.exit(1)
