"""Maintenance, one row that leaves connections alone or closes the product; and duties of one process at a time."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import connection

from leadengine.accounts.models import User
from leadengine.accounts.services import write_audit
from whatsapp.models import Maintenance, WhatsAppSession

_TAKE = """
INSERT INTO whatsapp_duty AS d (name, holder, until, done_at) VALUES (%(name)s, %(holder)s, %(until)s, NULL)
ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, until = excluded.until
WHERE (d.until IS NULL OR d.until < %(now)s OR d.holder = %(holder)s)
    AND (%(since)s::timestamptz IS NULL OR d.done_at IS NULL OR d.done_at < %(since)s)
RETURNING name
"""


def read_maintenance() -> Maintenance:
    """How it is now; a missing row is off."""
    return Maintenance.objects.filter(pk=1).first() or Maintenance()


def set_maintenance(
    *, on: bool, closed: bool = False, reason: str = "", actor: User | None = None, now: datetime
) -> None:
    """Switch maintenance; it acts at the next look of every process, within 5 s."""
    values = {"is_on": on, "closed": on and closed, "reason": reason[:200] if on else "", "changed_at": now}
    Maintenance.objects.update_or_create(pk=1, defaults=values)
    write_audit(
        tenant_id=None, actor=actor, action="maintenance.on" if on else "maintenance.off",
        changes={"closed": on and closed, "reason": reason},
    )  # fmt: skip


def may_reconnect(session: WhatsAppSession, maintenance: Maintenance) -> bool:
    """Whether the reconnect policy may act on a session (section 8)."""
    return (
        session.desired_state == "connected"
        and session.auto_reconnect
        and settings.WHATSAPP_AUTO_RECONNECT
        and not maintenance.is_on
    )


def take_duty(*, name: str, holder: UUID, seconds: float, now: datetime, not_since: datetime | None = None) -> bool:
    """Take, or renew, the lease on a duty; refused while another holds it, or when it was done after `not_since`."""
    values: dict[str, Any] = {
        "name": name,
        "holder": holder,
        "until": now + timedelta(seconds=seconds),
        "now": now,
        "since": not_since,
    }
    with connection.cursor() as cursor:
        cursor.execute(_TAKE, values)
        return cursor.fetchone() is not None


def end_duty(*, name: str, holder: UUID, done_at: datetime | None = None) -> None:
    """Give the lease back; `done_at` notes that the work is done."""
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE whatsapp_duty SET holder = NULL, until = NULL, done_at = coalesce(%s, done_at)"
            " WHERE name = %s AND holder = %s",
            [done_at, name, holder],
        )
