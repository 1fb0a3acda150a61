"""What the commands about connections have in common: finding one by its name, acting as the system, words for it."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime
from typing import Any
from uuid import UUID

from django.core.management.base import CommandError
from django.db.models import Q

from leadengine.accounts.scopes import service_scope
from tickets.services.shapes import iso
from whatsapp.management.telling import BAD_USE, FOUND
from whatsapp.models import WhatsAppSession
from whatsapp.services.lines import evidence_of
from whatsapp.services.sessions.wishes import Asker

# Whoever may run a command sees all tenants.
OPERATOR = Asker(None, lambda: service_scope("command of an operator"), "admin")


def find_session(word: str) -> WhatsAppSession:
    """A session by its id, connection_id, the broker's name or its own. Raises: CommandError, also for several."""
    same = Q(connection_id=word) | Q(broker_instance_id=word) | Q(session_name=word)
    with suppress(ValueError):
        same |= Q(pk=UUID(word))
    with service_scope("session that a command names"):
        found: list[WhatsAppSession] = list(
            WhatsAppSession.objects.filter(same, deleted_at=None).select_related("owner", "tenant")
        )
    exact = [one for one in found if word in {str(one.pk), one.connection_id, one.broker_instance_id}]
    found = exact or found
    if not found:
        raise CommandError(f"No connection is called {word!r}: see manage.py session_status.", returncode=FOUND)
    if len(found) > 1:
        names = ", ".join(sorted(one.connection_id for one in found))
        raise CommandError(f"Several connections are called {word!r}; name one of: {names}.", returncode=BAD_USE)
    return found[0]


def as_json(session: WhatsAppSession, now: datetime) -> dict[str, Any]:
    """A session for programs, without phone, key and QR code."""
    return {
        "id": str(session.pk),
        "tenant": session.tenant.slug,
        "owner": session.owner.email,
        "connectionId": session.connection_id,
        "name": session.session_name,
        "status": session.status,
        "desiredState": session.desired_state,
        "pendingWish": session.pending_wish,
        "reauthReason": session.reauth_reason,
        "duplicateReason": session.duplicate_reason,
        "lastError": session.last_error,
        "evidence": evidence_of(session, now),
        "reconnect": {
            "attempts": session.reconnect_attempts,
            "startedAt": iso(session.reconnect_started_at),
            "nextAttemptAt": iso(session.next_attempt_at),
        },
        "changedAt": iso(session.state_changed_at),
    }
