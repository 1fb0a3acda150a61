"""`manage.py normalize_webhook`: what the normaliser makes of webhooks (spec/inbound.md section 14)."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from whatsapp.normalizers import normalize, split_body

if TYPE_CHECKING:
    from django.core.management.base import CommandParser

BAD_USE = 2


class Command(BaseCommand):
    help = (
        "Prints one JSON line {kind, reason, canonical} per item of each webhook in a file. Touches no database. "
        "Example: manage.py normalize_webhook --file tests/payloads/corpus/webhooks.jsonl"
    )
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--file",
            required=True,
            help='one JSON body, or lines of bodies, or lines of {"headers", "body"}; - reads standard input',
        )
        parser.add_argument(
            "--raw-fallback",
            choices=("on", "off"),
            help="read raw upserts (default: WHATSAPP_RAW_FALLBACK_ENABLED)",
        )
        parser.add_argument(
            "--default-instance-id",
            help="instance of events that name none (default: WHATSAPP_DEFAULT_INSTANCE_ID)",
        )
        parser.add_argument("--json", action="store_true", help="accepted for symmetry: the output is always JSON")

    def handle(self, *_args: Any, **options: Any) -> None:
        bodies = read_bodies(_read_file(options["file"]))
        fallback, instance_id = options["raw_fallback"], options["default_instance_id"]
        raw_fallback = settings.WHATSAPP_RAW_FALLBACK_ENABLED if fallback is None else fallback == "on"
        if instance_id is None:
            instance_id = settings.WHATSAPP_DEFAULT_INSTANCE_ID
        received_at = datetime.now(UTC)
        for entry in (entry for body in bodies for entry in split_body(body)):
            for item in normalize(
                entry, received_at=received_at, raw_fallback=raw_fallback, default_instance_id=instance_id
            ):
                line = {"kind": item.kind, "reason": item.reason, "canonical": item.canonical}
                self.stdout.write(json.dumps(line, ensure_ascii=False))


def read_bodies(text: str) -> list[Any]:
    """Read webhook bodies from one JSON document or from JSON lines. Raises: CommandError."""
    try:
        documents = [json.loads(text)]
    except (ValueError, RecursionError):
        documents = []
        for number, line in enumerate(text.splitlines(), 1):
            if line.strip():
                documents.append(_parse(line, f"line {number}"))
    if not documents:
        raise CommandError("The file holds no webhook.", returncode=BAD_USE)
    return [_body_of(document, number) for number, document in enumerate(documents, 1)]


def _body_of(document: Any, number: int) -> Any:
    # A recorded webhook keeps its body as the exact text that was sent.
    if isinstance(document, dict) and isinstance(document.get("body"), str):
        return _parse(document["body"], f"the body of webhook {number}")
    return document


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CommandError(f"This is not JSON: {where} ({error}).", returncode=BAD_USE) from error


def _read_file(name: str) -> str:
    try:
        raw = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
        return raw.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"Cannot read {name}: {error}.", returncode=BAD_USE) from error
