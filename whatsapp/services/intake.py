"""The raw inbox: a webhook body becomes committed WebhookEvent rows before anybody answers 2xx (D7).

Requests that wait at the same moment share one INSERT and one commit (group commit): PostgreSQL's cost per row falls
to a third, and the wake-up is paid once.
"""

from __future__ import annotations

import asyncio
import json
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NoReturn
from uuid import UUID

import psycopg
import structlog
from django.conf import settings

from leadengine import metrics
from leadengine.accounts.scopes import SERVICE, SET_SCOPE
from leadengine.errors import DomainError
from leadengine.ids import uuid7
from whatsapp.adapters import get_adapter
from whatsapp.normalizers import clean_text, counts_as_queued

log = structlog.get_logger(__name__)

KEPT_OF_REJECTED = 65_536
_MOST_ROWS = 500
SLOTS = 1024


class InvalidWebhookJson(DomainError):
    """O corpo não é JSON válido."""

    code = "INVALID_WEBHOOK_JSON"
    status = 400


class StorageUnavailable(DomainError):
    """O banco de dados não confirmou a gravação: envie de novo."""

    code = "STORAGE_UNAVAILABLE"
    status = 503


@dataclass(slots=True)
class Entry:
    """One row to be. `reason` and `status` are set where the door already knows the fate."""

    id: UUID
    instance_id: str
    kind: str
    body: bytes
    queued: int
    slot: int
    request_id: str
    received_at: datetime
    status: str = ""
    reason: str = ""
    entries: int = 1  # how many the delivered body had


def parse_body(raw: bytes) -> Any:
    """The JSON of a body, strictly: UTF-8, no NaN, an object or a list. Raises: InvalidWebhookJson."""
    try:
        parsed = json.loads(raw.decode("utf-8-sig"), parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise InvalidWebhookJson(position=error.pos) from error
    except UnicodeDecodeError as error:
        raise InvalidWebhookJson("O corpo não é UTF-8.", position=error.start) from error
    except (ValueError, RecursionError) as error:
        raise InvalidWebhookJson from error
    if not isinstance(parsed, dict | list):
        raise InvalidWebhookJson("O corpo deve ser um objeto ou uma lista.")
    return parsed


def split_entries(*, raw: bytes, parsed: Any, request_id: str, received_at: datetime) -> list[Entry]:
    """The rows of a body, one per entry. A single event keeps its exact bytes, an entry of a batch its own JSON."""
    parts = get_adapter().split(parsed)
    single = len(parts) == 1 and parts[0] is parsed
    entries = [
        _describe(part, raw if single else json.dumps(part, separators=(",", ":")).encode(), request_id, received_at)
        for part in parts
    ]
    for entry in entries:
        entry.entries = len(entries)
    return entries


def rejected_entry(*, raw: bytes, reason: str, request_id: str, received_at: datetime) -> Entry:
    """A delivery with a right key that cannot be read: kept for the desk, first 64 KB."""
    body = zlib.compress(raw[:KEPT_OF_REJECTED], 1)
    return Entry(uuid7(), "", "", body, 0, 0, request_id, received_at, status="REJECTED", reason=reason)


def _describe(part: Any, body: bytes, request_id: str, received_at: datetime) -> Entry:
    adapter = get_adapter()
    instance = adapter.instance_of(part) or ""
    queued, chat, reason = 1, "", ""
    try:
        items = adapter.parse(part, received_at=received_at)
    except Exception:
        # Counting must never cost us the event: it is stored, counted as one, and the drain deals with it.
        log.exception("webhook_count_failed")
    else:
        queued = sum(map(counts_as_queued, items))
        chat = next((item_chat for item in items if (item_chat := getattr(item, "chat", None))), "")
        reason = items[0].reason if items else ""
    word = clean_text(str(part.get("event") or part.get("type") or "")) if isinstance(part, dict) else ""
    entry = Entry(
        uuid7(), instance, word[:40], zlib.compress(body, 1), queued,
        zlib.crc32(f"{instance}\n{chat}".encode()) % SLOTS, request_id, received_at,
    )  # fmt: skip
    if not instance:  # nobody's: its fate is known here
        entry.status, entry.reason = "PROCESSED", reason or "missing_instance"
    return entry


def _refuse_constant(word: str) -> NoReturn:
    raise ValueError(word)


_INSERT = """
INSERT INTO whatsapp_webhookevent
    (id, tenant_id, session_id, instance_id, kind, status, slot, body, queued, reason, request_id, received_at, due_at,
     processed_at, entries)
SELECT e.id, s.tenant_id, s.id, e.instance_id, e.kind,
    CASE WHEN e.status <> '' THEN e.status WHEN s.id IS NULL THEN 'ORPHAN' ELSE 'PENDING' END,
    e.slot, e.body, e.queued,
    CASE WHEN e.status = '' AND s.id IS NULL THEN 'unknown_instance' ELSE e.reason END, e.request_id, e.received_at,
    e.received_at, CASE WHEN e.status = 'PROCESSED' THEN e.received_at END, e.entries
FROM unnest(%s::uuid[], %s::text[], %s::text[], %s::bytea[], %s::int[], %s::smallint[], %s::text[], %s::timestamptz[],
    %s::text[], %s::text[], %s::int[])
    AS e (id, instance_id, kind, body, queued, slot, request_id, received_at, status, reason, entries)
LEFT JOIN LATERAL (
    SELECT id, tenant_id FROM whatsapp_sessions w
    WHERE w.deleted_at IS NULL AND e.instance_id <> ''
        AND (w.broker_instance_id = e.instance_id OR w.connection_id = e.instance_id)
    ORDER BY w.broker_instance_id = e.instance_id DESC NULLS LAST LIMIT 1
) s ON true
ON CONFLICT (id) DO UPDATE SET queued = excluded.queued
RETURNING id, session_id
"""


class Collector:
    """Stores entries of concurrent requests together. One per process and event loop."""

    def __init__(self) -> None:
        self._waiting: list[tuple[Sequence[Entry], asyncio.Future[dict[UUID, UUID | None]]]] = []
        self._runner: asyncio.Task[None] | None = None
        self._connection: psycopg.AsyncConnection[Any] | None = None

    async def store(self, entries: Sequence[Entry]) -> dict[UUID, UUID | None]:
        """Commit the entries; returns {entry id: session id, None for no session}. Raises: StorageUnavailable."""
        future: asyncio.Future[dict[UUID, UUID | None]] = asyncio.get_running_loop().create_future()
        self._waiting.append((entries, future))
        if self._runner is None or self._runner.done():
            self._runner = asyncio.create_task(self._run())
        return await future

    async def _run(self) -> None:
        while self._waiting:
            taken, rows = [], 0
            while self._waiting and rows < _MOST_ROWS:
                taken.append(self._waiting.pop(0))
                rows += len(taken[-1][0])
            await self._commit(taken)

    async def _commit(self, taken: list[tuple[Sequence[Entry], asyncio.Future[dict[UUID, UUID | None]]]]) -> None:
        try:
            sessions = await self._insert([entry for entries, _ in taken for entry in entries])
        except (psycopg.OperationalError, psycopg.InterfaceError, OSError) as error:
            log.warning("webhook_not_stored", requests=len(taken), error=type(error).__name__)
            for _, future in taken:
                _settle(future, StorageUnavailable(retryAfter=5))
        except Exception as error:
            if len(taken) == 1:
                log.exception("webhook_not_stored")
                _settle(taken[0][1], error)
                return
            for one in taken:  # one request must not sink the others
                await self._commit([one])
        else:
            for entries, future in taken:
                _settle(future, {entry.id: sessions[entry.id] for entry in entries})

    async def _insert(self, entries: list[Entry]) -> dict[UUID, UUID | None]:
        arrays = [
            [getattr(entry, name) for entry in entries]
            for name in (
                "id", "instance_id", "kind", "body", "queued", "slot", "request_id", "received_at", "status", "reason",
                "entries",
            )
        ]  # fmt: skip
        for last in (False, True):
            try:
                connection = await self._connect()
                async with connection.pipeline(), connection.transaction():
                    await connection.execute(SET_SCOPE, SERVICE.parameters())
                    cursor = await connection.execute(_INSERT, arrays, prepare=True)
                return dict(await cursor.fetchall())
            except (psycopg.OperationalError, psycopg.InterfaceError):
                # A connection that PostgreSQL closed is found out here; the ids are ours, so once more is harmless.
                await self.close()
                if last:
                    raise
        raise AssertionError

    async def _connect(self) -> psycopg.AsyncConnection[Any]:
        if self._connection is None or self._connection.closed:
            self._connection = await psycopg.AsyncConnection.connect(
                settings.DATABASE_URL, autocommit=True, connect_timeout=3
            )
        return self._connection

    async def close(self) -> None:
        """Give the connection back; the next store opens a new one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()


def _settle(future: asyncio.Future[Any], outcome: Any) -> None:
    if future.done():  # the caller went away
        return
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)


def count_ignored(entries: Sequence[Entry], sessions: dict[UUID, UUID | None]) -> int:
    """Count what no drain will see; returns how many items are queued in all."""
    reasons: Counter[str] = Counter()
    queued = 0
    for entry in entries:
        if sessions[entry.id] is not None:
            queued += entry.queued
        else:
            reasons[entry.reason or "unknown_instance"] += 1
    for reason, amount in reasons.items():
        metrics.webhook_events.labels(result="ignored", reason=reason, payload_type="none").inc(amount)
    return queued
