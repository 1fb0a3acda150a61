"""What the database and the phones say of a tenant's messages, and whether there is still something on its way."""

from __future__ import annotations

import contextlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from kombu.exceptions import KombuError

from leadengine.celery import MAINTENANCE
from leadengine.operations.chaos.fates import Arrival, Row, Try
from leadengine.operations.chaos.product import RunningProduct
from leadengine.redis import UNAVAILABLE

_TENANT = "(SELECT id FROM accounts_tenant WHERE slug = %s)"
_TICKETS = f"""
SELECT i.value, t.id::text, t.contact_id::text FROM tickets_ticket t
JOIN leads_contactidentity i ON i.contact_id = t.contact_id AND i.kind = 'phone' WHERE t.tenant_id = {_TENANT}
"""  # noqa: S608
_ROWS = f"""
SELECT id::text, content, status, source, position, external_id, error, metadata ? 'mergedInto'
FROM tickets_message WHERE direction = 'OUTBOUND' AND tenant_id = {_TENANT}
"""  # noqa: S608
_TRIES = f"""
SELECT message_id::text, outcome, code, claimed_at, finished_at FROM tickets_outboundattempt
WHERE tenant_id = {_TENANT} ORDER BY claimed_at
"""  # noqa: S608
_WAITING = """
WITH tenant AS (SELECT id FROM accounts_tenant WHERE slug = %s)
SELECT (SELECT count(*) FROM tickets_message WHERE tenant_id = (SELECT id FROM tenant) AND status = 'QUEUED'),
    (SELECT count(*) FROM tickets_message WHERE tenant_id = (SELECT id FROM tenant) AND status = 'SENDING'),
    (SELECT count(*) FROM whatsapp_webhookevent WHERE tenant_id = (SELECT id FROM tenant) AND status = 'PENDING'),
    (SELECT count(*) FROM whatsapp_webhookitem WHERE tenant_id = (SELECT id FROM tenant)
        AND (fate = 'pending' OR reason = 'awaiting_send' AND fate = 'parked'))
"""
_ENDED = f"""
SELECT count(*) FROM tickets_message
WHERE tenant_id = {_TENANT} AND direction = 'OUTBOUND' AND status NOT IN ('QUEUED', 'SENDING')
"""  # noqa: S608
_LEASES = f"""
UPDATE tickets_message SET lease_until = now() - interval '1 second'
WHERE status = 'SENDING' AND claimed_at < %s AND tenant_id = {_TENANT} RETURNING id
"""  # noqa: S608
_PAUSES = f"""
UPDATE tickets_message SET not_before = now()
WHERE status = 'QUEUED' AND not_before > now() + interval '1 second' AND tenant_id = {_TENANT} RETURNING id
"""  # noqa: S608


def tickets_of(product: RunningProduct, slug: str) -> dict[str, tuple[str, str]]:
    """Ticket and contact of each phone (digits)."""
    return {phone.removeprefix("+"): (ticket, contact) for phone, ticket, contact in product.rows(_TICKETS, [slug])}


def what_waits(product: RunningProduct, slug: str) -> str:
    """What has no fate yet, in words; nothing when all is done."""
    names = ("to be sent", "in flight", "webhooks to be read", "echoes of a send in flight")
    counts = [*zip(names, product.rows(_WAITING, [slug])[0], strict=True)]
    counts.append(("webhooks on their way", product.simulate("/_sim/state")["webhooks"].get("pending", 0)))
    return ", ".join(f"{count} {name}" for name, count in counts if count)


def count_ended(product: RunningProduct, slug: str) -> int:
    """How many messages have been sent, whatever came of it."""
    return int(product.rows(_ENDED, [slug])[0][0])


def rows_of(product: RunningProduct, slug: str) -> list[Row]:
    """Every message of ours, with its tries in their order."""
    tries: dict[str, list[Try]] = defaultdict(list)
    for message_id, *one in product.rows(_TRIES, [slug]):
        tries[message_id].append(Try(*one))
    return [replace(Row(*row), tries=tuple(tries[row[0]])) for row in product.rows(_ROWS, [slug])]


def codes_of(rows: Sequence[Row]) -> Counter[str]:
    """How the tries ended: `OK`, or the code of a failure."""
    return Counter(one.code for row in rows for one in row.tries)


def arrivals_at(product: RunningProduct, lines: Sequence[str]) -> list[Arrival]:
    """What the phones hold, line by line, in the order of arrival."""
    return [
        Arrival(one["id"], one["text"]) for line in lines for one in product.simulate(f"/_sim/{line}/sent")
    ]  # fmt: skip


def let_time_pass(product: RunningProduct, slug: str, died_at: datetime | None) -> None:
    """End what only time would end: leases of senders that died, pauses; and sweep at once."""
    if died_at is not None:
        product.rows(_LEASES, [died_at, slug])
    product.rows(_PAUSES, [slug])
    with contextlib.suppress(*UNAVAILABLE, KombuError):
        product.ask("tickets.sweep_outbox", MAINTENANCE)
