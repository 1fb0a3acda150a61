"""Provisioning: thousands of tenants in one transaction, a handful of statements for each kind of row."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any
from uuid import UUID

from django.contrib.auth.hashers import check_password, make_password
from django.db import IntegrityError, connection

from leadengine.accounts.models import ApiKey, AuditLog, Tenant, User
from leadengine.accounts.permissions import Role
from leadengine.accounts.scopes import service_scope
from leadengine.operations.provisioning.defaults import create_tenant_defaults
from leadengine.operations.provisioning.file import ProvisionFile, TenantPart, UnableToProvision, UserPart
from leadengine.operations.provisioning.lines import load_sessions, provision_sessions
from leadengine.operations.provisioning.world import BATCH, World, find_user
from tickets.models import Queue, QueueMembership
from tickets.transports import get_transport

_LOCK = 0x1EAE  # one provisioning at a time: two could make the same tenant twice


def provision_tenants(*, file: ProvisionFile, now: datetime) -> dict[str, Any]:
    """Create or update all that the file names, in one transaction; a second time changes nothing.

    Returns the JSON of spec/run.md section 3. Raises: UnableToProvision, and then nothing was changed.
    """
    passwords = _hash_passwords(file)  # 25 ms each: before the transaction, on all cores
    world = World(now)
    try:
        with service_scope("provisioning"):
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_xact_lock(%s, 0)", [_LOCK])
            load_sessions(file, world)
            _provision_tenants(file, world)
            _provision_queues(file, world)
            _provision_users(file, world, passwords)
            _provision_memberships(file, world)
            provision_sessions(file, world)
            _provision_tokens(file, world)
            _audit(world)
    except IntegrityError as error:
        raise UnableToProvision("", f"The database refuses it: {error.__cause__ or error}".splitlines()[0]) from error
    return _describe(file, world)


def _hash_passwords(file: ProvisionFile) -> dict[str, str]:
    """The new hash of every password that is not the stored one already, by e-mail."""
    wanted = {user.email: user.password for _, _, user in file.each("users") if user.password is not None}
    stored = dict(User.objects.filter(email__in=wanted).values_list("email", "password"))

    def hash_one(email: str) -> tuple[str, str] | None:
        password = wanted[email]
        if email in stored and check_password(password, stored[email]):
            return None
        return email, make_password(password)

    # Argon2 releases the interpreter, so threads are enough.
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        return dict(filter(None, threads.map(hash_one, wanted)))


def _provision_tenants(file: ProvisionFile, world: World) -> None:
    slugs = [part.slug for part in file.tenants]
    world.tenants = {tenant.slug: tenant for tenant in Tenant.objects.filter(slug__in=slugs)}
    parts = {part.slug: part for part in file.tenants}
    known = [(tenant, parts[slug].given("name", "timezone")) for slug, tenant in world.tenants.items()]
    fresh = [
        Tenant(slug=slug, name=part.name, timezone=part.timezone)
        for slug, part in parts.items()
        if slug not in world.tenants
    ]
    world.save(Tenant, fresh, known)
    world.tenants |= {tenant.slug: tenant for tenant in fresh}
    create_tenant_defaults(tenant_ids=[tenant.pk for tenant in fresh])


def _provision_queues(file: ProvisionFile, world: World) -> None:
    ids = [tenant.pk for tenant in world.tenants.values()]
    stored = Queue.objects.filter(tenant__in=ids).order_by("order_index", "name")
    world.queues = {(queue.tenant_id, queue.name): queue for queue in stored}
    last = Counter(queue.tenant_id for queue in world.queues.values())
    before = {queue.tenant_id for queue in world.queues.values() if queue.is_active}
    defaults = {queue.tenant_id for queue in world.queues.values() if queue.is_default}
    fresh, known = [], []
    for _, tenant_part, part in file.each("queues"):
        tenant = world.tenants[tenant_part.slug]
        queue = world.queues.get((tenant.pk, part.name))
        if queue is None:
            queue = Queue(
                tenant=tenant, name=part.name, is_active=part.active, description=part.description,
                colour=part.colour, reopen_window_minutes=part.reopen_window_minutes, order_index=last[tenant.pk],
                is_default=tenant.pk not in defaults,
            )  # fmt: skip
            last[tenant.pk] += 1
            defaults.add(tenant.pk)
            fresh.append(queue)
        else:
            values = part.given("description", "colour", "reopen_window_minutes")
            if "active" in part.model_fields_set:
                values["is_active"] = part.active
            if tenant.pk not in defaults:
                values["is_default"] = True
                defaults.add(tenant.pk)
            known.append((queue, values))
    world.save(Queue, fresh, known)
    world.queues |= {(queue.tenant_id, queue.name): queue for queue in fresh}
    # A tenant that had no active queue may have messages that wait for one (D22).
    for tenant_id in {q.tenant_id for q in world.queues.values() if q.is_active} - before - world.made:
        get_transport("WHATSAPP").queue_available(tenant_id=tenant_id, now=world.now)


def _provision_users(file: ProvisionFile, world: World, passwords: dict[str, str]) -> None:
    emails = {user.email for _, _, user in file.each("users")} | {t.user for _, _, t in file.each("api_tokens")}
    emails |= {session.owner for _, _, session in file.each("sessions") if session.owner}
    world.users = {user.email: user for user in User.objects.filter(email__in=emails)}
    tenant_ids = [tenant.pk for tenant in world.tenants.values()]
    admins = User.objects.filter(tenant__in=tenant_ids, role=Role.ADMIN, is_active=True).order_by("-created_at", "-pk")
    world.admins = {admin.tenant_id: admin for admin in admins if admin.tenant_id}
    fresh, known = [], []
    for path, tenant_part, part in file.each("users"):
        tenant = world.tenants[tenant_part.slug]
        user = find_user(world, tenant, part.email, f"{path}.email", must_exist=False)
        if user is None:
            password = passwords.get(part.email) or make_password(None)
            user = User(tenant=tenant, email=part.email, name=part.name, role=part.role, password=password)
            fresh.append(user)
        else:
            known.append((user, _user_values(part, passwords)))
        if part.role == Role.ADMIN:
            world.admins.setdefault(tenant.pk, user)
    fresh += [_first_admin(world, part) for part in file.tenants if _needs_admin(world, part)]
    world.save(User, fresh, known)
    world.users |= {user.email: user for user in fresh}


def _user_values(part: UserPart, passwords: dict[str, str]) -> dict[str, Any]:
    values = part.given("name", "role")
    if part.email in passwords:
        values["password"] = passwords[part.email]
    return values


def _needs_admin(world: World, part: TenantPart) -> bool:
    """Whether a new session of the tenant has to belong to an admin that does not exist yet."""
    if world.tenants[part.slug].pk in world.admins:
        return False
    return any(each.owner is None and each.connection_id not in world.sessions for each in part.sessions)


def _first_admin(world: World, part: TenantPart) -> User:
    """An admin nobody can sign in as; `.invalid` can never be anybody's address."""
    tenant = world.tenants[part.slug]
    email = f"admin@{part.slug.replace('_', '-')}.invalid"
    admin = User(tenant=tenant, email=email, name=part.name, role=Role.ADMIN, password=make_password(None))
    world.admins[tenant.pk] = admin
    return admin


def _provision_memberships(file: ProvisionFile, world: World) -> None:
    """Whoever's queues stand in the file works in exactly those."""
    wanted: dict[tuple[UUID, UUID], tuple[UserPart, UUID]] = {}
    people: list[UUID] = []
    for path, tenant_part, part in file.each("users"):
        if "queues" not in part.model_fields_set:
            continue
        tenant, user = world.tenants[tenant_part.slug], world.users[part.email]
        people.append(user.pk)
        for index, name in enumerate(part.queues):
            queue = world.queues.get((tenant.pk, name))
            if queue is None:
                raise UnableToProvision(f"{path}.queues[{index}]", f"{tenant.slug} has no queue {name}")
            wanted[user.pk, queue.pk] = part, tenant.pk
    stored = {(row.user_id, row.queue_id): row for row in QueueMembership.objects.filter(user__in=people)}
    QueueMembership.objects.filter(pk__in=[row.pk for key, row in stored.items() if key not in wanted]).delete()
    fresh = [
        QueueMembership(tenant_id=tenant_id, user_id=user_id, queue_id=queue_id, visibility=part.visibility)
        for (user_id, queue_id), (part, tenant_id) in wanted.items()
        if (user_id, queue_id) not in stored
    ]
    known = [(stored[key], part.given("visibility")) for key, (part, _) in wanted.items() if key in stored]
    world.save(QueueMembership, fresh, known)


def _provision_tokens(file: ProvisionFile, world: World) -> None:
    """Make the keys that do not exist; only now is their text known (or it was given)."""
    parts = [(path, tenant, part) for path, tenant, part in file.each("api_tokens")]
    owners = [find_user(world, world.tenants[tenant.slug], part.user, f"{path}.user") for path, tenant, part in parts]
    stored = ApiKey.objects.filter(owner__in=[owner.pk for owner in owners if owner], revoked_at__isnull=True)
    known = set(stored.values_list("owner_id", "name", "sha256"))
    names = {(owner_id, name) for owner_id, name, _ in known}
    fresh = []
    for (_, tenant_part, part), owner in zip(parts, owners, strict=True):
        assert owner is not None  # noqa: S101 - narrows the type
        key, prefix, sha256 = ApiKey.generate()
        if part.token:
            key, prefix, sha256 = part.token, part.token[:8], ApiKey.digest(part.token)
        exists = (owner.pk, part.name, sha256) in known if part.token else (owner.pk, part.name) in names
        world.tokens[tenant_part.slug, part.user, part.name] = None if exists else key
        if not exists:
            row = ApiKey(
                owner=owner, tenant=world.tenants[tenant_part.slug], name=part.name, prefix=prefix, sha256=sha256
            )
            fresh.append(row)
    world.save(ApiKey, fresh, ())


def _audit(world: World) -> None:
    """One line for each tenant that something changed in: by nobody who is signed in."""
    AuditLog.objects.bulk_create(
        [
            AuditLog(
                tenant_id=tenant.pk, action="tenant.provisioned", object_type="tenant", object_id=str(tenant.pk),
                changes={"rows": world.changes[tenant.pk], "created": tenant.pk in world.made},
            )
            for tenant in world.tenants.values()
            if world.changes[tenant.pk]
        ],
        batch_size=BATCH,
    )  # fmt: skip


def _describe(file: ProvisionFile, world: World) -> dict[str, Any]:
    return {"tenants": [_describe_tenant(part, world) for part in file.tenants]}


def _describe_tenant(part: TenantPart, world: World) -> dict[str, Any]:
    tenant = world.tenants[part.slug]
    users = [world.users[user.email] for user in part.users]
    admin = world.admins.get(tenant.pk)
    if admin is not None and admin.pk in world.made and admin not in users:
        users.append(admin)
    queues: Sequence[Queue] = [world.queues[tenant.pk, queue.name] for queue in part.queues]
    sessions = [world.sessions[session.connection_id] for session in part.sessions]
    return {
        "slug": part.slug,
        "created": tenant.pk in world.made,
        "users": [{"email": user.email, "created": user.pk in world.made} for user in users],
        "queues": [{"name": queue.name, "created": queue.pk in world.made} for queue in queues],
        "sessions": [
            {"id": str(row.pk), "connectionId": row.connection_id, "created": row.pk in world.made} for row in sessions
        ],
        "apiTokens": [
            {"name": token.name, "user": token.user, "token": world.tokens[part.slug, token.user, token.name]}
            for token in part.api_tokens
        ],
    }
