"""People and keys: every write of this app."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import structlog
from django.conf import settings
from django.contrib.auth.hashers import check_password, make_password
from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.db import models
from django.db.models import Q
from django.utils import timezone

from leadengine import metrics
from leadengine.accounts.models import ApiKey, AuditLog, LoginFailure, User
from leadengine.accounts.permissions import Role
from leadengine.errors import DomainError, ValidationFailed

# Checked when the account is unknown, so that both refusals take the same time.
_NOBODY_HASH = make_password("nobody")
_ADDRESS_LIMIT = 20
_MOST_PREFERENCES = 16_384  # bytes of JSON


_RANK = {Role.AGENT: 0, Role.SUPERVISOR: 1, Role.ADMIN: 2}
_USER_FIELDS = ("name", "email", "role", "is_active", "capacity")


class UnableToLogIn(DomainError):
    """E-mail ou senha incorretos."""

    code = "INVALID_CREDENTIALS"
    status = 401


class TooManyFailures(DomainError):
    """Muitas tentativas. Aguarde e tente de novo."""

    code = "RATE_LIMITED"
    status = 429


class UnableToChangeUser(DomainError):
    """Esta mudança de usuário não é permitida."""

    code = "USER_CHANGE_REFUSED"
    status = 409


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
    *,
    owner: User,
    tenant_id: UUID,
    name: str,
    kind: str = ApiKey.Kind.USER,
    scopes: Sequence[str] = (),
    session_id: UUID | None = None,
    expires_at: datetime | None = None,
) -> tuple[str, ApiKey]:
    """Make a key for a user and return it once in clear; only its hash is stored. No `scopes`: all that they may do."""
    key, prefix, sha256 = ApiKey.generate()
    row = ApiKey.objects.create(
        tenant_id=tenant_id, owner=owner, name=name, kind=kind, prefix=prefix, sha256=sha256, scopes=list(scopes),
        session_id=session_id, expires_at=expires_at,
    )  # fmt: skip
    return key, row


def issue_api_key(*, owner: User, tenant_id: UUID, name: str, **more: Any) -> tuple[str, ApiKey]:
    """`create_api_key` for somebody who asked for it: the audit log says so. Runs in the owner's scope."""
    key, row = create_api_key(owner=owner, tenant_id=tenant_id, name=name, **more)
    changes = {"name": name, "kind": row.kind, "scopes": row.scopes}
    write_audit(tenant_id=tenant_id, actor=owner, action="key.created", target=row, changes=changes)
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
    """Add a line to the audit log, in the running transaction and scope.

    Without `request_id` it carries that of the request that is being answered, as the log lines do.
    """
    bound = structlog.contextvars.get_contextvars()
    AuditLog.objects.create(
        tenant_id=tenant_id,
        actor=actor,
        action=action,
        object_type=target._meta.model_name if target is not None else "",
        object_id=str(target.pk) if target is not None else "",
        changes=changes or {},
        ip=ip,
        request_id=request_id or bound.get("request_id", ""),
    )


def write_audits(
    *,
    actor: User | None,
    action: str,
    targets: Sequence[models.Model],
    changes: Callable[[Any], dict[str, Any]] | dict[str, Any] | None = None,
) -> None:
    """Add a line for each of many objects, with one statement; the tenant is that of the object.

    `changes` are the same for all, or told of each.
    """
    request_id = structlog.contextvars.get_contextvars().get("request_id", "")
    AuditLog.objects.bulk_create(
        AuditLog(
            tenant_id=target.tenant_id,  # type: ignore[attr-defined]
            actor=actor,
            action=action,
            object_type=target._meta.model_name or "",
            object_id=str(target.pk),
            changes=changes(target) if callable(changes) else changes or {},
            request_id=request_id,
        )
        for target in targets
    )


def save_audited(*, actor: User, row: models.Model, fields: Sequence[str], action: str) -> dict[str, list[Any]]:
    """Insert or update `fields` of a row and audit what changed; returns {field: [before, after]}, empty for nothing.

    The caller checks the rights and translates the IntegrityErrors it expects.
    """
    before = type(row)._default_manager.select_for_update().filter(pk=row.pk).values(*fields).first()
    after = {name: getattr(row, name) for name in fields}
    changes = {
        name: [_plain(before[name]) if before else None, _plain(value)]
        for name, value in after.items()
        if before is None or before[name] != value
    }
    if before is None:
        row.save(force_insert=True)
    elif changes:
        row.save(update_fields=list(changes))
    if changes:
        write_audit(tenant_id=row.tenant_id, actor=actor, action=action, target=row, changes=changes)  # type: ignore[attr-defined]
    return changes


def save_user(*, actor: User, user: User) -> dict[str, list[Any]]:
    """Create or change a person of a tenant; returns the changed fields. A deactivated one loses every key.

    Raises: UnableToChangeUser. Rule: spec/tickets-leads.md section 1.
    """
    if not actor.may("users:write") or user.tenant_id is None:
        raise UnableToChangeUser("Só administradores mudam usuários.")
    # In one order, so that two admins who demote each other meet here and the second one finds the first gone.
    admins = User.objects.select_for_update().filter(tenant_id=user.tenant_id, role=Role.ADMIN, is_active=True)
    admin_ids = [admin.pk for admin in admins.order_by("pk")]
    stored = User.objects.filter(pk=user.pk).first()
    if not actor.is_superuser and _RANK[Role(user.role)] > _RANK[Role(actor.role)]:
        raise UnableToChangeUser("Ninguém concede um papel acima do próprio.")
    if stored is not None and stored.pk == actor.pk and (user.role != stored.role or not user.is_active):
        raise UnableToChangeUser("Ninguém muda o próprio papel nem desativa a si mesmo.")
    if admin_ids == [user.pk] and (user.role != Role.ADMIN or not user.is_active):
        raise UnableToChangeUser("O último administrador ativo não pode ser removido.")
    changes = save_audited(actor=actor, row=user, fields=_USER_FIELDS, action="user.saved")
    if "is_active" in changes and not user.is_active:
        ApiKey.objects.filter(owner=user, revoked_at__isnull=True).update(revoked_at=timezone.now())
    return changes


def reset_password(*, actor: User, user: User, password: str) -> None:
    """Give a person a new password: it ends their sessions and revokes the tokens of their logins.

    Raises: UnableToChangeUser.
    """
    if not actor.may("users:write"):
        raise UnableToChangeUser("Só administradores mudam usuários.")
    user.set_password(password)
    user.save(update_fields=["password"])
    ApiKey.objects.filter(owner=user, kind=ApiKey.Kind.LOGIN, revoked_at__isnull=True).update(revoked_at=timezone.now())
    write_audit(tenant_id=user.tenant_id, actor=actor, action="user.password_reset", target=user)


def revoke_api_key(*, actor: User, key: ApiKey, now: datetime) -> None:
    """End a key at once; a second time changes nothing."""
    if ApiKey.objects.filter(pk=key.pk, revoked_at__isnull=True).update(revoked_at=now):
        write_audit(tenant_id=key.tenant_id, actor=actor, action="key.revoked", target=key)


def save_profile(
    *, user: User, name: str | None = None, locale: str | None = None, preferences: Mapping[str, Any] | None = None
) -> User:
    """Change a person's own name, language and preferences: what is given, and of the preferences by key (None: gone).

    Raises: ValidationFailed (preferences over 16 KB).
    """
    user = User.objects.select_for_update(of=["self"]).select_related("tenant").get(pk=user.pk)
    user.name = user.name if name is None else name.strip() or user.name
    user.locale = user.locale if locale is None else locale
    merged = {**user.preferences, **(preferences or {})}
    user.preferences = {key: value for key, value in merged.items() if value is not None}
    if len(json.dumps(user.preferences)) > _MOST_PREFERENCES:
        raise ValidationFailed([{"field": "preferences", "message": "As preferências passam de 16 KB."}])
    user.save(update_fields=["name", "locale", "preferences", "updated_at"])
    return user


def change_password(*, user: User, password: str, keep: ApiKey | None = None) -> None:
    """Give a person the new password they chose; their tokens end, but for `keep`, and so do their sessions.

    Raises: ValidationFailed (newPassword: too short, too common, like the name).
    """
    try:
        validate_password(password, user)
    except ValidationError as error:
        raise ValidationFailed([{"field": "newPassword", "message": text} for text in error.messages]) from error
    user.set_password(password)
    user.save(update_fields=["password", "updated_at"])
    tokens = ApiKey.objects.filter(owner=user, kind=ApiKey.Kind.LOGIN, revoked_at__isnull=True)
    if keep is not None:
        tokens = tokens.exclude(pk=keep.pk)
    tokens.update(revoked_at=timezone.now())
    write_audit(tenant_id=user.tenant_id, actor=user, action="user.password_changed", target=user)


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _hash(value: str) -> str:
    return hashlib.sha256((settings.SECRET_KEY + value).encode()).hexdigest()
