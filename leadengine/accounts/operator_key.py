"""The platform operator's key: `API_KEY` of the environment, which may hold several while one is being replaced.

It is for the queues, and acts as an administrator of one tenant (spec/sessions.md section 7): API_KEY_TENANT, or the
only one there is.
"""

from __future__ import annotations

import hmac

import structlog
from django.conf import settings

from leadengine.accounts.models import ApiKey, Tenant, User
from leadengine.accounts.permissions import Role

log = structlog.get_logger(__name__)


def is_operator_key(key: str) -> bool:
    """Whether a key is one of API_KEY's. All are compared, each in constant time."""
    sent = key.encode()
    return bool(sum([hmac.compare_digest(sent, right.encode()) for right in settings.API_KEY]))


def find_operator(*, key: str) -> tuple[User, ApiKey] | None:
    """The administrator that an operator's key acts as, and the key as callers know keys; None for any other key."""
    if not is_operator_key(key):
        return None
    tenant = _tenant()
    admins = User.objects.select_related("tenant").filter(tenant=tenant, role=Role.ADMIN, is_active=True)
    admin = admins.order_by("created_at", "id").first() if tenant is not None else None
    if tenant is None or admin is None:
        log.warning("operator_key_has_no_tenant" if tenant is None else "operator_key_has_no_administrator")
        return None
    return admin, ApiKey(tenant=tenant, owner=admin, kind=ApiKey.Kind.TENANT, name="API_KEY")


def _tenant() -> Tenant | None:
    rows = Tenant.objects.all()
    if settings.API_KEY_TENANT:
        rows = rows.filter(slug=settings.API_KEY_TENANT)
    found = list(rows[:2])
    return found[0] if len(found) == 1 and found[0].is_active else None
