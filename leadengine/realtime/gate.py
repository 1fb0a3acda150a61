"""What the realtime layer asks of the apps above it, by a dotted path in settings.REALTIME_GATE.

The socket knows nothing of tickets: the gate says who may see one, and where it stands.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any, Protocol, cast
from uuid import UUID

from django.conf import settings
from django.utils.module_loading import import_string


class Sees(Protocol):
    """The visibility policy for one person."""

    @property
    def is_supervisor(self) -> bool: ...

    def sees(self, queue_id: UUID | None, assignee_id: UUID | None) -> bool: ...


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a ticket stands: the cursor of its thread, and what decides who sees it."""

    position: int
    seq: int
    queue_id: UUID
    assignee_id: UUID | None

    @property
    def cursor(self) -> str:
        """`P.E`: last position, last event."""
        return f"{self.position}.{self.seq}"


@dataclass(frozen=True, slots=True)
class Caller:
    """A signed-in person and what signed them in: a session key or an API key's id."""

    user_id: UUID
    tenant_id: UUID
    name: str
    initials: str
    session_key: str | None = None
    api_key_id: UUID | None = None


class Gate(Protocol):
    """All methods are synchronous and open their own scope."""

    def identify(self, scope: dict[str, Any]) -> Caller | None:
        """The caller of a handshake; None when nobody, a foreign Origin, or a person without tenant."""
        ...

    def still_valid(self, callers: list[Caller]) -> set[Caller]:
        """Those whose session or key, and account, are good now."""
        ...

    def viewers(self, tenant_id: UUID, user_ids: Collection[UUID]) -> dict[UUID, Sees]:
        """The present rights of people; who may not sign in any more is left out."""
        ...

    def standings(self, tenant_id: UUID, ticket_ids: Collection[UUID]) -> dict[UUID, Standing]:
        """Where tickets of the tenant stand; others are left out."""
        ...

    def last_change(self, tenant_id: UUID) -> datetime | None:
        """When a ticket of the tenant last changed."""
        ...

    def refused(self, tenant_id: UUID | None, user_id: UUID, ticket_id: str) -> None:
        """Somebody asked for a ticket they may not see: write it down."""
        ...


@cache
def gate() -> Gate:
    """The gate named in the settings."""
    return cast("Gate", import_string(settings.REALTIME_GATE)())
