"""A backlog as the door would have left it, made by COPY: a worker's rate is measured without a door beside it."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import psycopg

from leadengine.ids import uuid7
from leadengine.operations.bench.bodies import Writer, Written
from whatsapp.services.intake import SLOTS

COLUMNS = (
    "id", "tenant_id", "session_id", "instance_id", "kind", "status", "slot", "body", "queued", "received_at", "due_at",
)  # fmt: skip
KINDS = ("MESSAGE_INBOUND", "WHATSAPP_MESSAGES_UPSERT")


def fill_backlog(url: str, written: Iterable[Written]) -> list[UUID]:
    """Store both twins of each message as pending events; returns the ids of the events."""
    ids: list[UUID] = []
    writer = Writer()
    with psycopg.connect(url) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT connection_id, tenant_id, id FROM whatsapp_sessions")
        sessions = {name: (tenant_id, session_id) for name, tenant_id, session_id in cursor.fetchall()}
        with cursor.copy(f"COPY whatsapp_webhookevent ({', '.join(COLUMNS)}) FROM STDIN") as copy:
            for message in written:
                for kind, body in zip(KINDS, writer.twins(message), strict=True):
                    ids.append(uuid7())
                    copy.write_row((ids[-1], *_row(message, kind, body, sessions[message.line])))
    return ids


def _row(message: Written, kind: str, body: bytes, session: tuple[Any, Any]) -> tuple[Any, ...]:
    now = datetime.now(UTC)
    slot = zlib.crc32(f"{message.line}\n{message.phone}@s.whatsapp.net".encode()) % SLOTS
    packed = zlib.compress(body, 1)
    return (*session, message.line, kind, "PENDING", slot, packed, 1, now, now)
