"""The files that come with messages: their rows, as arrivals make them and later copies complete them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import connection

from leadengine.ids import uuid7
from leadengine.sql import dumps, insert_rows

FILE_TYPES = {"IMAGE", "VIDEO", "AUDIO", "DOCUMENT", "STICKER"}


@dataclass(slots=True)
class File:
    """A file that came with a message; `source` is what the transport needs to fetch it."""

    media_type: str
    mime_type: str = ""
    file_name: str = ""
    size: int | None = None
    seconds: int | None = None
    width: int | None = None
    height: int | None = None
    page_count: int | None = None
    voice: bool = False
    thumbnail: bytes | None = None
    source: dict[str, Any] = field(default_factory=dict)


def insert_files(*, tenant_id: UUID, files: Sequence[tuple[UUID, File]], now: datetime) -> None:
    """Make the rows of files, `(message, file)` each, to be fetched at once."""
    with connection.cursor() as cursor:
        insert_rows(
            cursor,
            "tickets_messagemedia",
            {
                "id": "uuid", "tenant_id": "uuid", "message_id": "uuid", "media_type": "text", "mime_type": "text",
                "file_name": "text", "size": "bigint", "seconds": "int", "width": "int", "height": "int",
                "page_count": "int", "voice": "boolean", "thumbnail": "bytea", "source": "jsonb",
                "next_attempt_at": "timestamptz",
            },
            [
                (
                    uuid7(), tenant_id, message_id, file.media_type, file.mime_type, file.file_name, file.size,
                    file.seconds, file.width, file.height, file.page_count, file.voice, file.thumbnail,
                    dumps(file.source), now,
                )
                for message_id, file in files
            ],
        )  # fmt: skip


def enrich_file(*, tenant_id: UUID, message_id: UUID, file: File, fuller: bool, now: datetime) -> bool:
    """Fill what a file's row lacks from another copy; whether it is fetched anew for it.

    `fuller`: the copy brings keys that the row does not have.
    """
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1 FROM tickets_message WHERE id = %s FOR UPDATE", [message_id])  # always before its file
        cursor.execute(
            _ENRICH,
            {
                "fuller": fuller, "source": dumps(file.source), "thumbnail": file.thumbnail, "size": file.size,
                "seconds": file.seconds, "width": file.width, "height": file.height, "pages": file.page_count,
                "now": now, "message": message_id, "tenant": tenant_id,
            },
        )  # fmt: skip
        return bool(cursor.fetchone()[0])


# Better keys put whatever was tried without them back to the start, and whoever is at it loses the lease.
_ENRICH = """
WITH before AS (
    SELECT id, state, %(fuller)s AND state <> 'ready' AS again FROM tickets_messagemedia
    WHERE message_id = %(message)s AND tenant_id = %(tenant)s FOR UPDATE
)
UPDATE tickets_messagemedia f SET
    source = CASE WHEN b.again THEN %(source)s::jsonb ELSE f.source END,
    state = CASE WHEN b.again THEN 'pending' ELSE f.state END,
    reason = CASE WHEN b.again THEN '' ELSE f.reason END,
    attempts = CASE WHEN b.again THEN 0 ELSE f.attempts END,
    next_attempt_at = CASE WHEN b.again THEN %(now)s ELSE f.next_attempt_at END,
    lease_until = CASE WHEN b.again THEN NULL ELSE f.lease_until END,
    thumbnail = coalesce(f.thumbnail, %(thumbnail)s), size = coalesce(f.size, %(size)s),
    seconds = coalesce(f.seconds, %(seconds)s), width = coalesce(f.width, %(width)s),
    height = coalesce(f.height, %(height)s), page_count = coalesce(f.page_count, %(pages)s)
FROM before b WHERE f.id = b.id
RETURNING b.again AND b.state <> 'pending'
"""
