"""Scopes: which rows this transaction may see. The only module that knows the service role.

Row level security reads three transaction-local settings (spec/sessions.md section 5):
`app.tenant_id`, `app.owner_id` and `app.session_scope` (`owner` or `tenant`). A scope opens a transaction (or a
savepoint in an open one), sets them in one round trip, and puts the outer scope back when it ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

import structlog
from django.db import DEFAULT_DB_ALIAS, connections, transaction

if TYPE_CHECKING:
    from leadengine.accounts.models import User

log = structlog.get_logger(__name__)

APP_ROLE = "leadengine_app"
SERVICE_ROLE = "leadengine_service"

SET_SCOPE = (
    "SELECT set_config('role', %s, true), set_config('app.tenant_id', %s, true),"
    " set_config('app.owner_id', %s, true), set_config('app.session_scope', %s, true)"
)


@dataclass(frozen=True, slots=True)
class Scope:
    """What the running transaction may see. `role` is `none` (the application role) or the service role."""

    role: str
    tenant_id: str
    owner_id: str
    session_scope: str

    def parameters(self) -> tuple[str, str, str, str]:
        """The arguments of SET_SCOPE."""
        return self.role, self.tenant_id, self.owner_id, self.session_scope


NOBODY = Scope("none", "", "", "")
SERVICE = Scope(SERVICE_ROLE, "", "", "tenant")


class ScopeMissing(RuntimeError):
    """Tenant data was asked for outside every scope: wrap the call in one of the three scopes."""


@contextmanager
def tenant_scope(tenant_id: UUID | str) -> Iterator[None]:
    """All rows of one tenant, for supervisors, workers and system work."""
    with _enter(Scope("none", str(tenant_id), "", "tenant")):
        yield


@contextmanager
def owner_scope(user: User) -> Iterator[None]:
    """One tenant, and of its connections only the user's own."""
    with _enter(Scope("none", str(user.tenant_id or ""), str(user.pk), "owner")):
        yield


@contextmanager
def user_scope(user: User) -> Iterator[None]:
    """The scope that a signed-in user acts in: superusers service, supervisors the tenant, agents their own."""
    if user.is_superuser:
        with service_scope("platform superuser"):
            yield
    elif user.is_supervisor:
        with tenant_scope(user.tenant_id or ""):
            yield
    else:
        with owner_scope(user):
            yield


@contextmanager
def service_scope(reason: str) -> Iterator[None]:
    """All tenants. For intake, sweeping, provisioning and superusers; the reason is logged."""
    log.debug("service_scope_entered", reason=reason)
    with _enter(SERVICE):
        yield


@contextmanager
def scope_again(kind: str, *, tenant_id: str, user_id: str) -> Iterator[None]:
    """The scope that a task was asked for in: `owner` or `tenant`, never the service."""
    with _enter(Scope("none", tenant_id, user_id, kind)):
        yield


def current_scope() -> Scope:
    """The scope of the running transaction, or NOBODY."""
    stack: list[Scope] = connections[DEFAULT_DB_ALIAS].__dict__.get("_leadengine_scopes", [])
    return stack[-1] if stack else NOBODY


@contextmanager
def _enter(scope: Scope) -> Iterator[None]:
    connection: Any = connections[DEFAULT_DB_ALIAS]
    outer = current_scope()
    stack: list[Scope] = connection.__dict__.setdefault("_leadengine_scopes", [])
    nested = connection.in_atomic_block
    with transaction.atomic():
        _set(connection, scope)
        stack.append(scope)
        try:
            yield
        finally:
            stack.pop()
        # Releasing a savepoint keeps what was set in it, so an outer scope is put back by hand. An error takes
        # the other way out: rolling back (to the savepoint, or all) undoes the settings by itself.
        if nested:
            _set(connection, outer)


def _set(connection: Any, scope: Scope) -> None:
    with connection.cursor() as cursor:
        cursor.execute(SET_SCOPE, scope.parameters())
