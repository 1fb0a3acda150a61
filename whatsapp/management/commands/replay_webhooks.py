"""`manage.py replay_webhooks`: recorded webhooks through the front door (spec/inbound.md section 14)."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError, CommandParser

from whatsapp.management.replay import BadLine, Played, Target, play, read_recording
from whatsapp.management.telling import BAD_USE, FOUND, Bar, LedgerCommand, stoppable

PATH = "/api/integrations/whatsapp/webhook"


class Command(LedgerCommand):
    help = (
        'Posts recorded webhooks, lines of {"headers", "body"}, in file order and prints the answers and how long they '
        "took. Posting them again does no harm. Exit code 1: an answer was not 2xx. "
        "Example: manage.py replay_webhooks --file tests/payloads/corpus/webhooks.jsonl --speed 0 --resign"
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--file", required=True, type=Path, help="the recording")
        parser.add_argument(
            "--speed", type=float, default=1.0, help="recorded gaps are divided by it; 0: no gaps (default: 1)"
        )
        parser.add_argument("--url", help=f"where to post (default: PUBLIC_BASE_URL{PATH})")
        parser.add_argument(
            "--key", help="X-API-Key (default: the first of WHATSAPP_WEBHOOK_API_KEY, else as recorded)"
        )
        parser.add_argument("--concurrency", type=int, default=1, help="requests at once (default: 1)")
        parser.add_argument(
            "--resign", action="store_true", help="sign each body with the first of WHATSAPP_WEBHOOK_HMAC_SECRET"
        )
        parser.add_argument("--from-line", type=int, default=1, metavar="N", help="begin at this line of the file")
        parser.add_argument("--dry-run", action="store_true", help="read the file and post nothing")

    def handle(self, *_args: Any, **options: Any) -> None:
        if options["speed"] < 0 or options["concurrency"] < 1 or options["from_line"] < 1:
            raise CommandError("--speed may be 0 or more, --concurrency and --from-line 1 or more.", returncode=BAD_USE)
        secrets: list[str] = settings.WHATSAPP_WEBHOOK_HMAC_SECRET
        if options["resign"] and not secrets:
            raise CommandError("Set WHATSAPP_WEBHOOK_HMAC_SECRET: there is nothing to sign with.", returncode=BAD_USE)
        target = Target(
            url=options["url"] or settings.PUBLIC_BASE_URL + PATH,
            key=options["key"] or next(iter(settings.WHATSAPP_WEBHOOK_API_KEY), None),
            secret=secrets[0] if options["resign"] else None,
        )
        played = Played()
        try:
            with options["file"].open(encoding="utf-8") as file:
                total = sum(1 for line in file if line.strip())
                file.seek(0)
                recording = read_recording(file, first=options["from_line"])
                if options["dry_run"]:
                    self.stdout.write(f"{sum(1 for _ in recording)} webhooks would be posted to {target.url}.")
                    return
                with Bar("posted", total) as bar, stoppable(lambda: _hint(played)):
                    asyncio.run(
                        play(
                            recording, target=target, speed=options["speed"], concurrency=options["concurrency"],
                            played=played, step=bar.step,
                        )
                    )  # fmt: skip
        except BadLine as error:
            raise CommandError(f"{options['file']}: {error}", returncode=BAD_USE) from error
        except (OSError, UnicodeDecodeError) as error:
            raise CommandError(f"{options['file']} cannot be read: {error}", returncode=BAD_USE) from error
        self._tell(played, as_json=options["json"])
        self.end(0 if played.all_taken else FOUND)

    def _tell(self, played: Played, *, as_json: bool) -> None:
        statuses = {str(status): number for status, number in sorted(played.statuses.items())}
        p50, p95 = round(played.quantile(0.5), 1), round(played.quantile(0.95), 1)
        if as_json:
            found = {"posted": played.statuses.total(), "statuses": statuses, "ackMs": {"p50": p50, "p95": p95}}
            self.stdout.write(json.dumps(found))
            return
        self.stdout.write(f"{played.statuses.total()} webhooks posted; answered after p50 {p50} ms, p95 {p95} ms.")
        for status, number in statuses.items():
            self.stdout.write(f"  {status if status != '0' else 'no answer':<10}{number:>8}")


def _hint(played: Played) -> str:
    return f"go on with --from-line {played.last_line + 1}; what is known already is not stored twice."
