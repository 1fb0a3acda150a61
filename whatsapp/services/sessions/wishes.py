"""What people want of connections: committed before the broker hears of it (spec/sessions.md section 3).

Each wish runs in the scope of whoever has it, in one transaction of its own; `converge` then does it at the broker. So
none of these may be called inside a transaction.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from django.conf import settings
from django.db import IntegrityError, connection, transaction
from django.utils.text import slugify

from leadengine.accounts.changes import note_change
from leadengine.accounts.models import ApiKey, Tenant, User
from leadengine.accounts.services import write_audit
from leadengine.errors import DomainError
from whatsapp.adapters import get_adapter
from whatsapp.models import WhatsAppAtendimento, WhatsAppSession
from whatsapp.services.lines import announce_sessions
from whatsapp.services.persistence import Scope, persist
from whatsapp.services.sessions.changing import Change, Origin, change_session, moved, record
from whatsapp.services.sessions.states import Trigger

Status = WhatsAppSession.Status
Wish = WhatsAppSession.Wish
NAME_MAX, SLUG_MAX = 80, 40
RESERVED = frozenset({"qr", "pair", "reconnect-all", "list", "create"})  # addresses beside those of the connections
_SHOWN = frozenset({"session_name", "auto_reconnect", "owner_id"})  # in the audit log
_OF_DELETED = frozenset({"session.delete", "session.restore"})
_UNSCRUBBED = re.compile(r"[^A-Za-z0-9_-]+")


class InstanceNotFound(DomainError):
    """Conexão não encontrada."""

    code = "INSTANCE_NOT_FOUND"
    status = 404


class InstanceAlreadyExists(DomainError):
    """Já existe uma conexão com este nome ou identificador."""

    code = "INSTANCE_ALREADY_EXISTS"
    status = 409


class MaxConnectionsReached(DomainError):
    """O limite de conexões deste usuário foi atingido."""

    code = "MAX_CONNECTIONS_REACHED"
    status = 409


class VersionConflict(DomainError):
    """A conexão mudou enquanto você a editava: leia de novo e repita."""

    code = "VERSION_CONFLICT"
    status = 409


class IdempotencyKeyReused(DomainError):
    """Esta chave de idempotência já foi usada com outro conteúdo."""

    code = "IDEMPOTENCY_KEY_REUSED"
    status = 422


class UnableToOwn(DomainError):
    """Nesta empresa agentes não têm conexões próprias: peça a um administrador."""

    code = "FORBIDDEN"
    status = 403


@dataclass(frozen=True, slots=True)
class Asker:
    """Who wishes: their scope, and how the history names them. `user` None is the system."""

    user: User | None
    scope: Scope
    source: str = "user"

    @property
    def origin(self) -> Origin:
        """For the history."""
        return Origin(self.source, self.user.pk if self.user else None)


@dataclass(frozen=True, slots=True)
class NewSession:
    """A connection to be made. `connection_id` None: made from the name; `unique_id` False: a suffix when taken."""

    tenant_id: UUID
    owner: User
    name: str
    connection_id: str | None = None
    unique_id: bool = True
    auto_connect: bool = True
    idempotency_key: str | None = None
    exempt: bool = False  # from the limit: superusers and provisioning


@dataclass(frozen=True, slots=True)
class Created:
    """A connection, and whether the same key had made it before."""

    session: WhatsAppSession
    replayed: bool = False


def create_session(*, wish: NewSession, asker: Asker, now: datetime) -> Created:
    """Store a new connection, wanted connected unless `auto_connect` is False.

    Raises: InstanceAlreadyExists, MaxConnectionsReached, IdempotencyKeyReused, UnableToOwn, PersistenceUnavailable.
    """

    def write() -> Created:
        _lock_owner(wish.owner)
        if (earlier := _replayed(wish)) is not None:
            return Created(earlier, replayed=True)
        _check_rights(wish)
        session = _insert(wish, now)
        record(session, old="", reason="created", origin=asker.origin, now=now)
        _audit(asker, session, "session.create", {"name": session.session_name})
        note_change("session created")
        announce_sessions(tenant_id=session.tenant_id, ids=[session.pk], change="created", now=now)
        return Created(session)

    return persist("session.create", write, scope=asker.scope)


def connect_session(
    *, session: WhatsAppSession, asker: Asker, now: datetime, only_wanted: bool = False
) -> WhatsAppSession:
    """Want a session connected; one that is already stays so. `only_wanted`: unless it is not wanted any more.

    Raises: InstanceNotFound (deleted meanwhile), MaxConnectionsReached, PersistenceUnavailable.
    """

    def decide(row: WhatsAppSession) -> Change | None:
        if only_wanted and (row.connected or row.desired_state != "connected" or row.deleted_at is not None):
            return None
        if row.desired_state != "connected" and not (asker.user and asker.user.is_superuser):
            _lock_owner(row.owner)
            _check_limit(row.tenant_id, row.owner_id, besides=row.pk)
        change = moved(row, Trigger.CONNECT, now=now) or Change("status")
        change.columns |= {
            "desired_state": "connected", "state_changed_at": now, "reconnect_attempts": 0, "next_attempt_at": None,
            "pending_wish": None if row.connected else Wish.CONNECT, "replaced_by": None, "duplicate_reason": None,
        }  # fmt: skip
        if row.connected:
            change.columns["last_error"] = None  # what nobody had asked for is wanted now
        return change

    return _wish(session, asker, decide, now, "session.connect")


def disconnect_session(*, session: WhatsAppSession, asker: Asker, now: datetime, wipe: bool = False) -> WhatsAppSession:
    """Want a session logged out; `wipe` clears its keys at the broker, too. Raises: PersistenceUnavailable."""

    def decide(row: WhatsAppSession) -> Change:
        change = moved(row, Trigger.STOP, now=now) or Change("status")
        change.columns |= {
            "desired_state": "disconnected", "state_changed_at": now, "next_attempt_at": None,
            "pending_wish": Wish.WIPE if wipe else Wish.LOGOUT,
        }  # fmt: skip
        return change

    return _wish(session, asker, decide, now, "session.wipe" if wipe else "session.disconnect")


def edit_session(
    *,
    session: WhatsAppSession,
    asker: Asker,
    now: datetime,
    name: str | None = None,
    auto_reconnect: bool | None = None,
    version: int | None = None,
) -> WhatsAppSession:
    """Rename a session, or let it be reconnected or not; `version` refuses when it changed since it was read.

    Raises: VersionConflict, InstanceAlreadyExists, PersistenceUnavailable.
    """
    columns: dict[str, Any] = {}
    if name is not None:
        columns["session_name"] = name.strip()
    if auto_reconnect is not None:
        columns["auto_reconnect"] = auto_reconnect

    def decide(row: WhatsAppSession) -> Change | None:
        if version is not None and row.version != version:
            raise VersionConflict(version=row.version)
        changed = {field: value for field, value in columns.items() if getattr(row, field) != value}
        return Change("settings", changed) if changed else None

    try:
        return _wish(session, asker, decide, now, "session.edit")
    except IntegrityError as error:
        raise InstanceAlreadyExists(suggestedId=None) from error


def transfer_session(*, session: WhatsAppSession, owner: User, asker: Asker, now: datetime) -> WhatsAppSession:
    """Give a session to another member of the tenant (ADMIN, D39). Raises: InstanceAlreadyExists, UnableToOwn."""
    if owner.tenant_id != session.tenant_id or not owner.is_active:
        raise UnableToOwn("O novo dono precisa ser um membro ativo desta empresa.")

    def decide(row: WhatsAppSession) -> Change | None:
        if row.owner_id == owner.pk:
            return None
        _lock_owner(owner)
        _check_owner(row.tenant_id, owner)
        if row.desired_state == "connected":
            _check_limit(row.tenant_id, owner.pk, besides=row.pk)
        return Change("settings", {"owner_id": owner.pk}, then=lambda row: _hand_over(row, owner, now))

    try:
        return _wish(session, asker, decide, now, "session.transfer")
    except IntegrityError as error:
        raise InstanceAlreadyExists(suggestedId=None) from error


def delete_session(*, session: WhatsAppSession, asker: Asker, now: datetime) -> WhatsAppSession:
    """Take a session out of use: the row stays, its instance at the broker goes. Raises: PersistenceUnavailable."""

    def decide(row: WhatsAppSession) -> Change:
        change = moved(row, Trigger.STOP, now=now, kind="deleted") or Change("deleted")
        change.columns |= {
            "desired_state": "disconnected", "state_changed_at": now, "deleted_at": now, "pending_wish": Wish.DELETE,
            "next_attempt_at": None,
        }  # fmt: skip
        return change

    return _wish(session, asker, decide, now, "session.delete")


def restore_session(*, session: WhatsAppSession, asker: Asker, now: datetime) -> WhatsAppSession:
    """Bring a deleted session back, disconnected. Raises: InstanceAlreadyExists, PersistenceUnavailable."""

    def decide(row: WhatsAppSession) -> Change | None:
        if row.deleted_at is None:
            return None
        return Change("settings", {"deleted_at": None, "pending_wish": None, "state_changed_at": now})

    try:
        return _wish(session, asker, decide, now, "session.restore")
    except IntegrityError as error:
        raise InstanceAlreadyExists(suggestedId=None) from error


def audit_session(asker: Asker, session: WhatsAppSession, action: str) -> None:
    """Note in the audit log what somebody did with a session, in the scope of whoever did it."""
    with asker.scope():
        _audit(asker, session, action, {})


# --- Steps ------------------------------------------------------------------------------------------------------


def _wish(
    session: WhatsAppSession,
    asker: Asker,
    decide: Callable[[WhatsAppSession], Change | None],
    now: datetime,
    action: str,
) -> WhatsAppSession:
    def audited(row: WhatsAppSession) -> Change | None:
        if row.deleted_at is not None and action not in _OF_DELETED:
            raise InstanceNotFound  # deleted since it was found
        change = decide(row)
        if change is not None:
            _audit(asker, row, action, {name: str(change.columns[name]) for name in _SHOWN if name in change.columns})
        return change

    changed = change_session(
        session_id=session.pk, tenant_id=session.tenant_id, operation="session.wish", origin=asker.origin,
        decide=audited, now=now, scope=asker.scope,
    )  # fmt: skip
    return changed or session


def _audit(asker: Asker, session: WhatsAppSession, action: str, changes: Mapping[str, Any]) -> None:
    write_audit(tenant_id=session.tenant_id, actor=asker.user, action=action, target=session, changes=dict(changes))


def _lock_owner(owner: User) -> None:
    """Creates and wishes of one owner come one after the other, so that the limit holds."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 1))", [str(owner.pk)])


def _replayed(wish: NewSession) -> WhatsAppSession | None:
    if wish.idempotency_key is None:
        return None
    earlier: WhatsAppSession | None = WhatsAppSession.objects.filter(
        owner=wish.owner, idempotency_key=wish.idempotency_key
    ).first()
    if earlier is not None and earlier.metadata.get("request") != _digest(wish):
        raise IdempotencyKeyReused
    return earlier


def _digest(wish: NewSession) -> str:
    parts = [wish.name, wish.connection_id, wish.auto_connect]
    return hashlib.sha256(json.dumps(parts, ensure_ascii=False).encode()).hexdigest()


def _hand_over(session: WhatsAppSession, owner: User, now: datetime) -> None:
    """Its open episodes follow the session; keys that the former owner made for it end."""
    open_rows = WhatsAppAtendimento.objects.for_tenant(session.tenant_id).exclude(status="FECHADO")
    open_rows.filter(connection_id=session.connection_id).update(owner_id=owner.pk)
    ApiKey.objects.filter(session_id=session.pk, revoked_at=None).exclude(owner=owner).update(revoked_at=now)


def _check_owner(tenant_id: UUID, owner: User) -> None:
    tenant = Tenant.objects.get(pk=tenant_id)
    if not owner.is_supervisor and tenant.settings.get("agentsMayOwnSessions") is False:
        raise UnableToOwn


def _check_rights(wish: NewSession) -> None:
    _check_owner(wish.tenant_id, wish.owner)
    if wish.auto_connect and not wish.exempt:
        _check_limit(wish.tenant_id, wish.owner.pk)


def _check_limit(tenant_id: UUID, owner_id: UUID, besides: UUID | None = None) -> None:
    own = Tenant.objects.get(pk=tenant_id).settings.get("maxConnectionsPerOwner")
    most = own if isinstance(own, int) else settings.WHATSAPP_MAX_CONNECTIONS_PER_OWNER
    if not most:
        return
    wanted = WhatsAppSession.objects.for_tenant(tenant_id).filter(
        owner_id=owner_id, desired_state="connected", deleted_at=None
    )
    count = wanted.exclude(pk=besides).count()
    if count >= most:
        raise MaxConnectionsReached(activeConnections=count, maxConnections=most)


def _insert(wish: NewSession, now: datetime) -> WhatsAppSession:
    """The row, under its own id or one with a suffix: also when a row outside the scope holds that id.

    An id that is an address of something else counts as taken.
    """
    session_id = uuid4()
    part = 0
    own_id = wish.connection_id or slugify(wish.name)[:SLUG_MAX] or "conexao"
    tried = f"{own_id}-{uuid4().hex[:6]}" if own_id in RESERVED else own_id
    for _ in range(5):
        try:
            with transaction.atomic():
                return _row(wish, session_id, tried, part, now)
        except IntegrityError as error:
            if "broker_instance_id" in str(error):
                part += 1
                continue
            if "whatsapp_sessions_name_per_owner" in str(error):
                raise InstanceAlreadyExists(suggestedId=f"{own_id}-{uuid4().hex[:6]}") from error
            if "connection_id" not in str(error):
                raise
            taken_here = WhatsAppSession.objects.filter(connection_id=tried).exists()
            if wish.connection_id is not None and wish.unique_id and taken_here:
                raise InstanceAlreadyExists(suggestedId=f"{own_id}-{uuid4().hex[:6]}") from error
            tried = f"{own_id}-{uuid4().hex[:6]}"
    raise InstanceAlreadyExists(suggestedId=f"{own_id}-{uuid4().hex[:6]}")


def _row(wish: NewSession, session_id: UUID, connection_id: str, part: int, now: datetime) -> WhatsAppSession:
    wanted = wish.auto_connect
    session = WhatsAppSession(
        id=session_id, tenant_id=wish.tenant_id, owner=wish.owner, session_name=wish.name.strip(),
        connection_id=connection_id, broker_instance_id=_wire_name(wish.tenant_id, session_id, part),
        status=Status.CONNECTING if wanted else Status.DISCONNECTED,
        desired_state="connected" if wanted else "disconnected", pending_wish=Wish.CONNECT if wanted else None,
        auto_reconnect=True, version=1, state_changed_at=now, created_at=now, updated_at=now, risk_paused=False,
        capabilities=dict(get_adapter().capabilities), idempotency_key=wish.idempotency_key, strikes=0, qr_version=0,
        reconnect_attempts=0, metadata={"request": _digest(wish)} if wish.idempotency_key else {},
    )  # fmt: skip
    session.save(force_insert=True)
    return session


def _wire_name(tenant_id: UUID, session_id: UUID, part: int) -> str:
    """`le-<tenant slug>-<8 hex of the id>` (D40); the next 8 when another row of ours has it."""
    slug = _UNSCRUBBED.sub("-", Tenant.objects.only("slug").get(pk=tenant_id).slug).lower()
    return f"le-{slug}-{session_id.hex[part * 8 : part * 8 + 8]}"
