"""The WhatsApp connections of a provisioning file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from django.db.models import Q

from leadengine.ids import uuid7
from leadengine.operations.provisioning.file import ProvisionFile, SessionPart, TenantPart, UnableToProvision
from leadengine.operations.provisioning.world import BATCH, World, find_user
from whatsapp.models import SessionEvent, WhatsAppSession
from whatsapp.services.persistence import persist

CONNECTED = WhatsAppSession.Status.CONNECTED
Parts = list[tuple[str, TenantPart, SessionPart]]


def load_sessions(file: ProvisionFile, world: World) -> None:
    """Read the sessions that exist already."""
    ids = {part.connection_id for _, _, part in file.each("sessions")}
    rows = WhatsAppSession.objects.filter(connection_id__in=ids).select_related("owner")
    world.sessions = {row.connection_id: row for row in rows}


def provision_sessions(file: ProvisionFile, world: World) -> None:
    """Create or update the sessions; what is connected is expected to be connected from now on."""
    parts: Parts = list(file.each("sessions"))
    fresh, known = [], []
    wanted: list[tuple[str, WhatsAppSession, dict[str, Any]]] = []
    before: dict[str, str] = {}
    for path, tenant_part, part in parts:
        tenant = world.tenants[tenant_part.slug]
        row = world.sessions.get(part.connection_id)
        if row is not None and row.tenant_id != tenant.pk:
            raise UnableToProvision(f"{path}.connectionId", f"{part.connection_id} belongs to another tenant")
        values = _values(part, row, world)
        if part.owner:
            values["owner"] = find_user(world, tenant, part.owner, f"{path}.owner")
        if "state_changed_at" in values:
            before[part.connection_id] = row.status if row else ""
        if row is None:
            values = {"owner": world.admins.get(tenant.pk), "session_name": part.connection_id} | values
            row = WhatsAppSession(id=uuid7(), tenant=tenant, connection_id=part.connection_id, **values)
            fresh.append(row)
            world.sessions[part.connection_id] = row
        else:
            known.append((row, values))
        wanted.append((path, row, values))
    _refuse_doubles(wanted)
    persist("provision", lambda: world.save(WhatsAppSession, fresh, known))
    _record(world, before)


def _values(part: SessionPart, row: WhatsAppSession | None, world: World) -> dict[str, Any]:
    """The columns that the file sets: of a stored row only what stands in it."""
    values = part.given("broker_instance_id", "phone_number")
    if part.name is not None:
        values["session_name"] = part.name
    if row is not None:
        values["deleted_at"] = None
    if row is None or ("status" in part.model_fields_set and part.status != row.status):
        values |= {
            "status": part.status,
            "state_changed_at": world.now,
            "connected_at" if part.status == CONNECTED else "disconnected_at": world.now,
        }
    if row is None or "status" in part.model_fields_set:
        values["desired_state"] = "connected" if part.status == CONNECTED else "disconnected"
    return values


def _refuse_doubles(wanted: Sequence[tuple[str, WhatsAppSession, dict[str, Any]]]) -> None:
    """An id that a broker may name leads to one session only: else one tenant would get another's messages.

    The rest are rules of the database, refused here so that the answer can name the path.
    """
    finals = [
        (path, {name: values.get(name, getattr(row, name)) for name in _COMPARED}) for path, row, values in wanted
    ]
    taken = {key: row["connection_id"] for row in _others([final for _, final in finals]) for _, key in _keys(row)}
    for path, final in finals:
        for name, key in _keys(final):
            holder = taken.setdefault(key, final["connection_id"])
            if holder != final["connection_id"]:
                raise UnableToProvision(f"{path}.{name}", f"is the same as of the session {holder}")


_COMPARED = ("connection_id", "broker_instance_id", "owner", "session_name", "phone_number", "status")


def _others(finals: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Stored sessions that are not in the file and might collide with one that is."""
    ids = {final[name] for final in finals for name in ("connection_id", "broker_instance_id")} - {None}
    by_id = Q(connection_id__in=ids) | Q(broker_instance_id__in=ids)
    by_owner = Q(owner__in={final["owner"].pk for final in finals if final["owner"]}, deleted_at__isnull=True)
    rows = WhatsAppSession.objects.filter(by_id | by_owner).exclude(
        connection_id__in=[final["connection_id"] for final in finals]
    )
    for row in rows.select_related("owner"):
        yield {name: getattr(row, name) for name in _COMPARED}


def _keys(final: dict[str, Any]) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """What no two sessions share: (field of the file, value)."""
    yield "connectionId", ("id", final["connection_id"])
    if final["broker_instance_id"]:
        yield "brokerInstanceId", ("id", final["broker_instance_id"])
    if final["owner"]:
        yield "name", ("name", final["owner"].pk, final["session_name"].lower())
        if final["phone_number"] and final["status"] == CONNECTED:
            yield "phoneNumber", ("phone", final["owner"].pk, final["phone_number"])


def _record(world: World, before: dict[str, str]) -> None:
    """A line in the history of each session whose state this changed."""
    rows = [(world.sessions[connection_id], old) for connection_id, old in before.items()]
    SessionEvent.objects.bulk_create(
        [
            SessionEvent(
                tenant_id=row.tenant_id, session=row, old_status=old, new_status=row.status, reason="provisioned",
                source="admin", at=world.now,
            )
            for row, old in rows
        ],
        batch_size=BATCH,
    )  # fmt: skip
