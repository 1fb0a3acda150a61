"""Ways to put webhooks into the inbox in service tests: what the door does, without HTTP."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from whatsapp.services.drain import drain_inbox
from whatsapp.services.intake import Collector, parse_body, split_entries

_ids = itertools.count(1)


def text_event(
    text: str = "Oi",
    *,
    phone: str = "+5511988887777",
    name: str = "Maria",
    instance: str = "ipe-01",
    external_id: str | None = None,
    sent_at: datetime | None = None,
) -> dict[str, Any]:
    """A MESSAGE_INBOUND of the official broker."""
    jid = phone.removeprefix("+") + "@s.whatsapp.net"
    at = (sent_at or datetime.now(UTC)).isoformat()
    return {
        "event": "MESSAGE_INBOUND",
        "instanceId": instance,
        "payload": {
            "contact": {"owner": "user", "remoteJid": jid, "phone": phone, "displayName": name, "isGroup": False},
            "message": {"id": external_id or f"T{next(_ids)}", "chatId": jid, "type": "text", "text": text},
            "metadata": {"timestamp": at, "broker": {"direction": "inbound", "type": "baileys"}},
        },
    }


def store(*bodies: Any) -> None:
    """Commit bodies to the raw inbox, each as one request."""

    async def run() -> None:
        collector = Collector()
        await asyncio.gather(*(_store_one(collector, body) for body in bodies))
        await collector.close()

    asyncio.run(run())


async def _store_one(collector: Collector, body: Any) -> None:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    entries = split_entries(raw=raw, parsed=parse_body(raw), request_id="test", received_at=datetime.now(UTC))
    await collector.store(entries)


def receive(*bodies: Any) -> int:
    """Store bodies and drain the inbox; returns how many events and items were taken."""
    store(*bodies)
    return drain_inbox()


def corpus_lines(path: str) -> Sequence[dict[str, Any]]:
    """The lines of a corpus file."""
    from pathlib import Path

    text = (Path(__file__).parent.parent / "payloads" / "corpus" / path).read_text()
    return [json.loads(line) for line in text.splitlines() if line.strip()]
