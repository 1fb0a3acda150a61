"""Endpoints: made, changed, rotated, switched off, removed; each change is audited and noted for the snapshots."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import structlog

from leadengine.accounts.changes import note_change
from leadengine.accounts.models import Tenant, User
from leadengine.accounts.services import write_audit
from leadengine.errors import DomainError, NotFound
from leadengine.sealing import seal
from leadengine.webhooks.models import Endpoint
from leadengine.webhooks.services.recording import wake_delivery_on_commit
from leadengine.webhooks.signing import make_secret

log = structlog.get_logger(__name__)

MOST_ENDPOINTS = 20  # of a tenant: each event is one row more for each of them
BOTH_SIGN = timedelta(hours=24)


class TooManyEndpoints(DomainError):
    """Esta empresa já tem o máximo de webhooks: exclua um antes."""

    code = "TOO_MANY_WEBHOOKS"
    status = 409


class EndpointOff(DomainError):
    """O webhook está desligado: ligue-o antes."""

    code = "WEBHOOK_DISABLED"
    status = 409


def create_endpoint(
    *,
    actor: User,
    tenant_id: UUID,
    url: str,
    events: Sequence[str],
    now: datetime,
    description: str = "",
    enabled: bool = True,
) -> tuple[Endpoint, str]:
    """Make an endpoint and return it with its secret, which is shown this once. The caller has checked the address.

    Raises: TooManyEndpoints.
    """
    # Two at once could exceed the number together. Whoever only refers to the tenant is not kept waiting.
    Tenant.objects.select_for_update(no_key=True).get(pk=tenant_id)
    if Endpoint.objects.for_tenant(tenant_id).filter(deleted_at=None).count() >= MOST_ENDPOINTS:
        raise TooManyEndpoints(limit=MOST_ENDPOINTS)
    secret = make_secret()
    endpoint = Endpoint.objects.create(
        tenant_id=tenant_id, url=url, description=description, events=_in_order(events), secret=seal(secret),
        **_switched(enabled, now),
    )  # fmt: skip
    _audit(endpoint, actor, "webhook.created", {"url": [None, shown_url(url)], "events": [None, endpoint.events]})
    return endpoint, secret


def change_endpoint(
    *,
    actor: User,
    endpoint: Endpoint,
    now: datetime,
    url: str | None = None,
    description: str | None = None,
    events: Sequence[str] | None = None,
    enabled: bool | None = None,
) -> Endpoint:
    """Change what is given. Switched on again it begins anew, and what waited for it leaves.

    The caller has checked a new address. Raises: NotFound.
    """
    row = _lock(endpoint)
    wanted: dict[str, Any] = {"url": url, "description": description, "enabled": enabled}
    if events is not None:
        wanted["events"] = _in_order(events)
    changed = {name: value for name, value in wanted.items() if value is not None and value != getattr(row, name)}
    if not changed:
        return row
    changes = {name: [_plain(name, getattr(row, name)), _plain(name, value)] for name, value in changed.items()}
    if "enabled" in changed:
        changed |= _switched(changed["enabled"], now)
        if row.enabled is False:
            changed |= {"failures": 0, "failing_since": None}
            wake_delivery_on_commit()
    for name, value in changed.items():
        setattr(row, name, value)
    row.save(update_fields=list(changed))
    _audit(row, actor, "webhook.changed", changes)
    return row


def rotate_secret(*, actor: User, endpoint: Endpoint, now: datetime) -> tuple[Endpoint, str]:
    """Give an endpoint a new secret, shown this once; the one before it signs beside it for 24 hours.

    Raises: NotFound.
    """
    row, secret = _lock(endpoint), make_secret()
    row.secret, row.previous_secret, row.previous_until = seal(secret), row.secret, now + BOTH_SIGN
    row.save(update_fields=["secret", "previous_secret", "previous_until"])
    _audit(row, actor, "webhook.secret_rotated", {})
    return row, secret


def delete_endpoint(*, actor: User, endpoint: Endpoint, now: datetime) -> None:
    """Take an endpoint out of use; its log is kept for its 30 days. Raises: NotFound."""
    row = _lock(endpoint)
    row.deleted_at, row.secret, row.previous_secret, row.previous_until = now, "", "", None
    row.save(update_fields=["deleted_at", "secret", "previous_secret", "previous_until"])
    _audit(row, actor, "webhook.deleted", {"url": [shown_url(row.url), None]})


def switch_off(*, endpoint_id: UUID, reason: Endpoint.Off, now: datetime) -> None:
    """Switch an endpoint off because of what it answers, and tell the admins. Runs in the caller's scope.

    What waits for it waits on, for somebody to switch it on again.
    """
    rows = Endpoint.objects.filter(pk=endpoint_id, enabled=True)
    if rows.update(enabled=False, disabled_reason=reason, disabled_at=now):
        row = Endpoint.objects.get(pk=endpoint_id)
        changes = {"reason": [None, reason], "failures": [None, row.failures], "url": [None, shown_url(row.url)]}
        _audit(row, None, "webhook.disabled", changes)
        log.warning("webhook_endpoint_disabled", endpoint_id=str(endpoint_id), reason=str(reason))


def require_on(endpoint: Endpoint) -> None:
    """Refuse to send to an endpoint that is switched off. Raises: EndpointOff."""
    if not endpoint.enabled:
        raise EndpointOff(reason=endpoint.disabled_reason)


def shown_url(url: str) -> str:
    """An address for those who may not see all of it: many hold a key in their path."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}/…"


def _lock(endpoint: Endpoint) -> Endpoint:
    rows = Endpoint.objects.for_tenant(endpoint.tenant_id).filter(pk=endpoint.pk, deleted_at=None)
    row: Endpoint | None = rows.select_for_update(no_key=True).first()  # deliveries to it are made meanwhile
    if row is None:
        raise NotFound("Webhook não encontrado.")
    return row


def _switched(enabled: bool, now: datetime) -> dict[str, Any]:
    if enabled:
        return {"enabled": True, "disabled_reason": "", "disabled_at": None}
    return {"enabled": False, "disabled_reason": Endpoint.Off.BY_HAND, "disabled_at": now}


def _in_order(events: Sequence[str]) -> list[str]:
    return sorted(set(events))


def _plain(name: str, value: Any) -> Any:
    return shown_url(value) if name == "url" else value


def _audit(endpoint: Endpoint, actor: User | None, action: str, changes: dict[str, Any]) -> None:
    write_audit(tenant_id=endpoint.tenant_id, actor=actor, action=action, target=endpoint, changes=changes)
    note_change("webhook endpoint")
