"""Configuration snapshots: what was in force when, the difference of two, and the way back (spec/operations.md 8).

One numbered series for the whole product. A snapshot is taken after each change of a session or webhook setting
(`leadengine.accounts.changes`), at the start of a worker and in every backup; one that equals the newest is not stored.
Secrets stand in it as `sha256:` and eight hex digits: enough to see that one has changed, useless to whoever reads it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import structlog
from django.conf import settings
from django.db import DatabaseError, IntegrityError, connection, transaction

from leadengine.accounts.models import Tenant
from leadengine.accounts.scopes import service_scope, tenant_scope
from leadengine.accounts.services import write_audit
from leadengine.operations.models import ConfigSnapshot
from leadengine.webhooks.models import Endpoint
from tickets.models import Queue
from tickets.transports import get_transport
from whatsapp.models import WhatsAppSession
from whatsapp.services.sessions.changing import Change, Origin, change_session

log = structlog.get_logger(__name__)
Data = dict[str, Any]

_LOCK = 0x5E77
_SECRET = re.compile(r"(KEY|SECRET|TOKEN|PASSWORD)$")
# What another attribute of the settings holds, or what differs from process to process.
_HELD_BY = {"DEBUG": "DEVELOPMENT", "LEADENGINE_DATA_DIR": "DATA_DIR", "RABBITMQ_WORKER_COUNT": "WORKER_COUNT"}
_PER_PROCESS = {"LEADENGINE_PROCESS"}
_OWN_TEXT = {"SECRET_KEY"}  # made up when it is not set
_SESSION_COLUMNS = {
    "name": "session_name", "autoReconnect": "auto_reconnect", "defaultQueueId": "default_queue_id",
}  # fmt: skip
_QUEUE_COLUMNS = {
    "name": "name", "description": "description", "colour": "colour", "active": "is_active", "order": "order_index",
    "default": "is_default", "reopenWindowMinutes": "reopen_window_minutes",
    "responseTargetMinutes": "response_target_minutes", "requireCloseReason": "require_close_reason",
}  # fmt: skip


class UnknownSnapshot(Exception):
    """There is no snapshot of that version. The message is a sentence."""


def take_snapshot(*, reason: str) -> ConfigSnapshot:
    """Store the configuration in force as the next version; returns the newest one when nothing has changed."""
    with service_scope("configuration snapshot"):
        with connection.cursor() as cursor:  # versions have no gap, and each sees the commits before it
            cursor.execute("SELECT pg_advisory_xact_lock(%s, 0)", [_LOCK])
        data = describe_configuration()
        made = digest(data)
        newest = ConfigSnapshot.objects.order_by("-version").first()
        if newest is not None and newest.digest == made:
            return newest
        version = newest.version + 1 if newest else 1
        return ConfigSnapshot.objects.create(version=version, reason=reason[:200], digest=made, data=data)


def note_configuration(what: str) -> None:
    """Take a snapshot because `what` has changed. The change is done: a failure here is logged and nothing else."""
    try:
        take_snapshot(reason=what)
    except DatabaseError as error:
        log.warning("config_snapshot_failed", error=type(error).__name__)


def describe_configuration() -> Data:
    """The configuration in force, as JSON. Called in a service scope."""
    return {
        "settings": {name: _in_force(name) for name in sorted(settings.SETTINGS_READ)},
        "webhooks": {
            "url": f"{settings.PUBLIC_BASE_URL}/api/integrations/whatsapp/webhook",
            "keys": conceal(settings.WHATSAPP_WEBHOOK_API_KEY),
            "signingSecrets": conceal(settings.WHATSAPP_WEBHOOK_HMAC_SECRET),
            "enforceSignature": settings.WHATSAPP_WEBHOOK_ENFORCE_SIGNATURE,
        },
        "webhookEndpoints": {
            str(row.pk): {
                "tenantId": str(row.tenant_id),
                "url": conceal(row.url),
                "host": urlsplit(row.url).hostname,
                "events": row.events,
                "enabled": row.enabled,
                "secret": conceal(row.secret),
            }
            for row in Endpoint.objects.filter(deleted_at=None)
        },
        "tenants": {
            str(pk): {"slug": slug, "active": active, "settings": chosen}
            for pk, slug, active, chosen in Tenant.objects.values_list("id", "slug", "is_active", "settings")
        },
        "sessions": {
            str(row["id"]): {
                "tenantId": str(row["tenant_id"]),
                "connectionId": row["connection_id"],
                "brokerInstanceId": row["broker_instance_id"],
                "ownerId": str(row["owner_id"]),
                **{name: _plain(row[column]) for name, column in _SESSION_COLUMNS.items()},
            }
            for row in WhatsAppSession.objects.filter(deleted_at=None).values(
                "id", "tenant_id", "connection_id", "broker_instance_id", "owner_id", *_SESSION_COLUMNS.values()
            )
        },
        "queues": {
            str(row["id"]): {
                "tenantId": str(row["tenant_id"]),
                **{name: row[column] for name, column in _QUEUE_COLUMNS.items()},
            }
            for row in Queue.objects.order_by().values("id", "tenant_id", *_QUEUE_COLUMNS.values())
        },
    }


def digest(data: Data) -> str:
    """SHA-256 of a snapshot, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(data, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def find_snapshot(version: int) -> ConfigSnapshot:
    """A stored snapshot. Raises: UnknownSnapshot."""
    found = ConfigSnapshot.objects.filter(version=version).first()
    if found is None:
        newest = ConfigSnapshot.objects.order_by("-version").first()
        raise UnknownSnapshot(
            f"There is no snapshot {version}: the newest is {newest.version if newest else 'still to be taken'}."
        )
    return found


def compare(before: Data, after: Data) -> list[dict[str, Any]]:
    """What differs: `{path, before, after}` for each value, None where it is missing."""
    old, new = dict(_leaves(before)), dict(_leaves(after))
    return [
        {"path": path, "before": old.get(path), "after": new.get(path)}
        for path in sorted({*old, *new})
        if old.get(path) != new.get(path)
    ]


def restore_snapshot(*, version: int, now: datetime) -> dict[str, Any]:
    """Put sessions, queues and tenants back to the settings of a snapshot; what is now is kept as a snapshot before.

    Returns `restored` and `skipped` (what is gone by now, or whose name is taken), and under `byHand` the settings of
    the environment that differ: no process can change those. Nothing is created and nothing deleted.
    Raises: UnknownSnapshot, PersistenceUnavailable.
    """
    wanted = find_snapshot(version).data
    present = take_snapshot(reason=f"before restoring {version}").data
    done: dict[str, Any] = {"restored": [], "skipped": [], "byHand": []}
    for part, write in (("sessions", _write_session), ("queues", _write_queue), ("tenants", _write_tenant)):
        for key, values in wanted[part].items():
            if values == present[part].get(key):
                continue
            refusal = write(UUID(key), values, now) if key in present[part] else "gone"
            place = {"path": f"{part}.{key}"}
            done["skipped" if refusal else "restored"].append(place | ({"reason": refusal} if refusal else {}))
    done["byHand"] = compare({"settings": present["settings"]}, {"settings": wanted["settings"]})
    with service_scope("audit of a restored configuration"):
        write_audit(tenant_id=None, actor=None, action="config.restored", changes={"version": [None, version]})
    done["version"] = take_snapshot(reason=f"restored {version}").version
    return done


def conceal(value: Any) -> Any:
    """A secret, or a list of them, as `sha256:` and eight hex digits; empty stays empty."""
    if isinstance(value, list):
        return [conceal(each) for each in value]
    return f"sha256:{hashlib.sha256(str(value).encode()).hexdigest()[:8]}" if value else ""


def _write_session(session_id: UUID, values: Data, now: datetime) -> str:
    columns = {column: values[name] for name, column in _SESSION_COLUMNS.items()}

    def decide(session: WhatsAppSession) -> Change | None:
        before = {column: _plain(getattr(session, column)) for column in columns}
        return Change("settings", columns) if before != columns else None

    try:
        change_session(
            session_id=session_id, tenant_id=UUID(values["tenantId"]), operation="session.settings",
            origin=Origin("admin"), decide=decide, now=now,
        )  # fmt: skip
    except IntegrityError:
        return "name taken"
    return ""


def _write_queue(queue_id: UUID, values: Data, now: datetime) -> str:
    tenant_id = UUID(values["tenantId"])
    try:
        with tenant_scope(tenant_id), transaction.atomic():
            queues = Queue.objects.for_tenant(tenant_id)
            if values["default"]:  # there is one at a time
                queues.filter(is_default=True).exclude(pk=queue_id).update(is_default=False)
            queues.filter(pk=queue_id).update(**{column: values[name] for name, column in _QUEUE_COLUMNS.items()})
            if values["active"]:
                for channel in settings.TICKETS_TRANSPORTS:
                    get_transport(channel).queue_available(tenant_id=tenant_id, now=now)
    except IntegrityError:
        return "name taken"
    return ""


def _write_tenant(tenant_id: UUID, values: Data, _now: datetime) -> str:
    Tenant.objects.filter(pk=tenant_id).update(settings=values["settings"])
    return ""


def _in_force(name: str) -> Any:
    """The value of a setting: what the product works with, or the text of the environment."""
    if name in _PER_PROCESS:
        return None
    written = settings.SETTINGS_READ[name]
    value = written if name in _OWN_TEXT else getattr(settings, _HELD_BY.get(name, name), written)
    if _SECRET.search(name):
        return conceal(value)
    plain = _plain(value)
    return [_without_password(each) for each in plain] if isinstance(plain, list) else _without_password(plain)


def _without_password(value: Any) -> Any:
    """An address whose user and password are concealed; anything else as it is."""
    parts = urlsplit(value) if isinstance(value, str) else None
    if parts is None or "@" not in parts.netloc:
        return value
    login, _, host = parts.netloc.rpartition("@")
    return parts._replace(netloc=f"{conceal(login)}@{host}").geturl()


def _plain(value: Any) -> Any:
    """The value as JSON has it."""
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, each in value.items():
            yield from _leaves(each, f"{path}.{key}" if path else str(key))
    else:
        yield path, value
