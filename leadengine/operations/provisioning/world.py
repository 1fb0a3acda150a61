"""What a provisioning works on: the rows that the file names, as they stand and as they are made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

from django.db import models

from leadengine.accounts.models import Tenant, User
from leadengine.operations.provisioning.file import UnableToProvision
from tickets.models import Queue
from whatsapp.models import WhatsAppSession

BATCH = 2000
Row = TypeVar("Row", bound=models.Model)


@dataclass(slots=True)
class World:
    """Rows by their names in the file, and which of them were just made."""

    now: datetime
    tenants: dict[str, Tenant] = field(default_factory=dict)
    users: dict[str, User] = field(default_factory=dict)
    admins: dict[UUID, User] = field(default_factory=dict)  # each tenant's first admin
    queues: dict[tuple[UUID, str], Queue] = field(default_factory=dict)
    sessions: dict[str, WhatsAppSession] = field(default_factory=dict)
    tokens: dict[tuple[str, str, str], str | None] = field(default_factory=dict)
    made: set[Any] = field(default_factory=set)  # ids of the rows that this call created
    changes: Counter[UUID] = field(default_factory=Counter)  # rows created or changed, by tenant

    def save(self, model: type[Row], rows: Iterable[Row], changed: Iterable[tuple[Row, dict[str, Any]]]) -> None:
        """Insert new rows, and update the fields of stored ones that differ."""
        fresh = list(rows)
        model._default_manager.bulk_create(fresh, batch_size=BATCH)
        self.made.update(row.pk for row in fresh)
        touched = list(fresh)
        names: set[str] = set()
        for row, values in changed:
            different = {name: value for name, value in values.items() if getattr(row, name) != value}
            if different:
                names |= different.keys()
                touched.append(row)
            for name, value in different.items():
                setattr(row, name, value)
        stored = touched[len(fresh) :]
        if stored:
            model._default_manager.bulk_update(stored, sorted(names), batch_size=BATCH)
        self.changes.update(getattr(row, "tenant_id", row.pk) for row in touched)


def find_user(world: World, tenant: Tenant, email: str, path: str, *, must_exist: bool = True) -> User | None:
    """The user of a tenant by e-mail. Raises: UnableToProvision for one of another tenant, or a missing one."""
    user = world.users.get(email)
    if user is None and must_exist:
        raise UnableToProvision(path, f"{tenant.slug} has no user {email}")
    if user is not None and user.tenant_id != tenant.pk:
        raise UnableToProvision(path, f"{email} belongs to another tenant")
    return user
