"""People and keys: every write of this app."""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.contrib.auth.hashers import check_password, make_password
from django.db.models import Q
from django.utils import timezone

from leadengine import metrics
from leadengine.accounts.models import ApiKey, AuditLog, LoginFailure, User
from leadengine.errors import DomainError

# Checked when the account is unknown, so that both refusals take the same time.
_NOBODY_HASH = make_password("nobody")
_ADDRESS_LIMIT = 20


class UnableToLogIn(DomainError):
    """E-mail ou senha incorretos."""

    code = "INVALID_CREDENTIALS"
    status = 401


class TooManyFailures(DomainError):
    """Muitas tentativas. Aguarde e tente de novo."""

    code = "RATE_LIMITED"
    status = 429


def authenticate_login(*, email: str, password: str, address: str, now: datetime) -> User:
    """Return the user of a right pair; a wrong one is counted.

    Raises: UnableToLogIn (the same for every cause), TooManyFailures (5 per account or 20 per address in 15 min,
    `details.retryAfter` seconds). Rule: spec/tickets-leads.md section 1.
    """
    account_hash, address_hash = _hash(email.strip().lower()), _hash(address)
    since = now - timedelta(minutes=settings.LOGIN_LOCK_MINUTES)
    recent = LoginFailure.objects.filter(at__gt=since)
    for field, value, limit in (
        ("account", account_hash, settings.LOGIN_MAX_FAILURES),
        ("address", address_hash, _ADDRESS_LIMIT),
    ):
        failures = list(recent.filter(**{field: value}).order_by("-at")[:limit])
        if len(failures) == limit:
            metrics.logins.labels(result="locked").inc()
            wait = failures[-1].at + timedelta(minutes=settings.LOGIN_LOCK_MINUTES) - now
            raise TooManyFailures(retryAfter=max(1, int(wait.total_seconds())))
    user = User.objects.select_related("tenant").filter(email=email.strip().lower()).first()
    right = check_password(password, user.password if user else _NOBODY_HASH)
    if not user or not right or not user.is_active or (user.tenant and not user.tenant.is_active):
        LoginFailure.objects.create(account=account_hash, address=address_hash, at=now)
        metrics.logins.labels(result="failure").inc()
        raise UnableToLogIn
    LoginFailure.objects.filter(account=account_hash).delete()
    metrics.logins.labels(result="success").inc()
    return user


def find_key_owner(*, key: str) -> tuple[User, ApiKey] | None:
    """The user a key acts for, and the key; None when it is unknown, revoked, expired or its owner may not act."""
    now = timezone.now()
    found = (
        ApiKey.objects.select_related("owner", "owner__tenant")
        .filter(sha256=ApiKey.digest(key), revoked_at__isnull=True, owner__is_active=True)
        .filter(Q(expires_at__isnull=True) | Q(expires_at__gt=now))
        .first()
    )
    if found is None or (found.owner.tenant and not found.owner.tenant.is_active):
        return None
    if found.last_used_at is None or now - found.last_used_at > timedelta(minutes=1):
        ApiKey.objects.filter(pk=found.pk).update(last_used_at=now)
    return found.owner, found


def create_api_key(
    *, owner: User, tenant_id: UUID, name: str, kind: str = ApiKey.Kind.USER, expires_at: datetime | None = None
) -> tuple[str, ApiKey]:
    """Make a key for a user and return it once in clear; only its hash is stored."""
    key, prefix, sha256 = ApiKey.generate()
    row = ApiKey.objects.create(
        tenant_id=tenant_id, owner=owner, name=name, kind=kind, prefix=prefix, sha256=sha256, expires_at=expires_at
    )
    return key, row


def write_audit(
    *,
    tenant_id: UUID | None,
    actor: User | None,
    action: str,
    target: Any = None,
    changes: dict[str, Any] | None = None,
    ip: str | None = None,
    request_id: str = "",
) -> None:
    """Add a line to the audit log, in the running transaction and scope."""
    AuditLog.objects.create(
        tenant_id=tenant_id,
        actor=actor,
        action=action,
        object_type=target._meta.model_name if target is not None else "",
        object_id=str(target.pk) if target is not None else "",
        changes=changes or {},
        ip=ip,
        request_id=request_id,
    )


def _hash(value: str) -> str:
    return hashlib.sha256((settings.SECRET_KEY + value).encode()).hexdigest()
