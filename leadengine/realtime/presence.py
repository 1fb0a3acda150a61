"""Who looks at which ticket: in Redis with its TTL only, so that it lapses by itself (spec/inbox.md section 8)."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from leadengine.realtime.gate import Caller
from leadengine.redis import UNAVAILABLE, client

VIEWING_SECONDS, TYPING_SECONDS = 20, 6
STATES = ("viewing", "idle", "typing")


def report(caller: Caller, ticket_id: UUID, state: str) -> None:
    """Note that a person views, idles at or types into a ticket."""
    key, field, now = _key(caller.tenant_id, ticket_id), str(caller.user_id), time.time()
    try:
        earlier = json.loads(client().hget(key, field) or b"{}")
        since = earlier["since"] if earlier.get("state") == state and earlier["until"] > now else now
        seen: dict[str, Any] = {
            "name": caller.name, "initials": caller.initials, "state": state, "since": since,
            "until": now + VIEWING_SECONDS, "typing": now + TYPING_SECONDS if state == "typing" else 0,
        }  # fmt: skip
        with client().pipeline() as pipe:
            pipe.hset(key, field, json.dumps(seen))
            pipe.expire(key, VIEWING_SECONDS + 5)
            pipe.execute()
    except UNAVAILABLE:
        return  # presence is a hint: without Redis nobody is shown


def leave(caller: Caller, ticket_id: UUID) -> None:
    """Note that a person left a ticket."""
    try:
        client().hdel(_key(caller.tenant_id, ticket_id), str(caller.user_id))
    except UNAVAILABLE:
        return


def present(tenant_id: UUID, ticket_id: UUID) -> list[dict[str, Any]]:
    """Who is at a ticket now: [{id, name, initials, state, since}], whoever has lapsed left out."""
    try:
        rows: dict[bytes, bytes] = client().hgetall(_key(tenant_id, ticket_id))  # type: ignore[assignment]
    except UNAVAILABLE:
        return []
    now, users = time.time(), []
    for field, value in sorted(rows.items()):
        seen = json.loads(value)
        if seen["until"] <= now:
            continue
        lapsed = seen["state"] == "typing" and seen["typing"] <= now
        users.append(
            {
                "id": field.decode(), "name": seen["name"], "initials": seen["initials"],
                "state": "viewing" if lapsed else seen["state"],
                "since": datetime.fromtimestamp(seen["since"], UTC).isoformat().replace("+00:00", "Z"),
            }
        )  # fmt: skip
    return users


def _key(tenant_id: UUID, ticket_id: UUID) -> str:
    return f"presence:{tenant_id}:{ticket_id}"
