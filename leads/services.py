"""Contacts and leads: every write of this app."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import IntegrityError, connection, transaction
from django.db.backends.utils import CursorWrapper
from django.db.models import F

from leadengine.accounts.models import User
from leadengine.accounts.services import save_audited
from leadengine.errors import DomainError, NotFound, ValidationFailed
from leadengine.ids import uuid7
from leadengine.sql import dumps, insert_rows, unnest
from leads.models import Contact, PipelineStage, Tag

_IDENTITY = {
    "id": "uuid", "tenant_id": "uuid", "contact_id": "uuid", "kind": "text", "value": "text", "is_primary": "boolean",
}  # fmt: skip
NO_NAME = "Contato sem número"
GROUP_NO_NAME = "Grupo do WhatsApp"
MOST_CUSTOM_FIELDS = 65_536  # bytes of JSON
DEFAULT_STAGES = (
    ("Novo", "NEW", "#175CD3", False, False),
    ("Contatado", "CONTACTED", "#5B6875", False, False),
    ("Qualificado", "QUALIFIED", "#0B6E4F", False, False),
    ("Proposta", "PROPOSAL", "#B25E09", False, False),
    ("Negociação", "NEGOTIATION", "#7A5AF8", False, False),
    ("Ganho", "CONVERTED", "#079455", True, False),
    ("Perdido", "LOST", "#B42318", False, True),
)


_CONTACT_FIELDS = ("name", "name_source", "notes", "custom_fields", "is_blocked")


class UnableToSave(DomainError):
    """Já existe uma etiqueta ou etapa assim."""

    code = "NAME_TAKEN"
    status = 409


class ContactChanged(DomainError):
    """O contato mudou enquanto isso: veja como está agora. Details: version."""

    code = "VERSION_CONFLICT"
    status = 409


@dataclass(slots=True)
class Person:
    """What one event says of the person or group it came from.

    `identities` are (kind, value) pairs of ContactIdentity, the most telling first; `name` is None when the event
    brought only a number.
    """

    identities: tuple[tuple[str, str], ...]
    is_group: bool = False
    name: str | None = None
    push_name: str | None = None
    document: str | None = None
    registrations: tuple[str, ...] = ()
    avatar_url: str | None = None


@dataclass(slots=True)
class ContactRow:
    """A contact as the pipeline needs it."""

    id: UUID
    name: str
    kind: str
    name_source: str
    is_new: bool = False


Known = dict[tuple[str, str], ContactRow]  # identity -> its contact


@dataclass(slots=True)
class LeadTouch:
    """One inbound message of a person: it creates the lead or moves its last contact."""

    contact_id: UUID
    message_id: UUID
    preview: str
    at: datetime


@dataclass(slots=True)
class LeadChange:
    """What touch_leads did to one lead, for `lead.updated`."""

    lead_id: UUID
    contact_id: UUID
    created: bool
    stage_id: UUID
    status: str
    rank: str
    last_contact_at: datetime | None
    version: int
    activities: int = field(default=0)


def upsert_contacts(*, tenant_id: UUID, people: Sequence[Person], now: datetime) -> list[ContactRow]:
    """Find or create the contact of each person, add missing identities, and take over better names.

    One person may occur many times; concurrent first events of one person make one contact, by the unique constraint
    on the identity: insert, on conflict read again. Result i belongs to people[i].
    """
    wanted = list(dict.fromkeys(pair for person in people for pair in person.identities))
    with connection.cursor() as cursor:
        known = _find_identities(cursor, tenant_id, wanted)
        fresh = _group_unknown(people, known)
        if fresh:
            _insert_contacts(cursor, tenant_id, fresh, now)
            known = _find_identities(cursor, tenant_id, wanted)
        found = [_oldest(person, known) for person in people]
        _add_missing(cursor, tenant_id, people, found, known)
        _refresh(cursor, tenant_id, people, found, now)
    return found


def touch_leads(*, tenant_id: UUID, touches: Sequence[LeadTouch], now: datetime) -> list[LeadChange]:
    """Create the missing leads, move last_contact_at forward only, and add one WHATSAPP_REPLIED per message."""
    if not touches:
        return []
    latest: dict[UUID, datetime] = {}
    for touch in touches:
        latest[touch.contact_id] = max(touch.at, latest.get(touch.contact_id, touch.at))
    with connection.cursor() as cursor:
        cursor.execute("SELECT id FROM leads_pipelinestage WHERE tenant_id = %s AND status = 'NEW'", [tenant_id])
        stage = cursor.fetchone()
        if stage is None:
            create_default_stages(tenant_id=tenant_id)
            return touch_leads(tenant_id=tenant_id, touches=touches, now=now)
        rows = []
        for contact_id, at in sorted(latest.items()):
            lead_id = uuid7()
            rows.append((lead_id, tenant_id, contact_id, stage[0], "NEW", "WHATSAPP", at, lead_id.hex))
        source, arrays = unnest(
            {
                "id": "uuid", "tenant_id": "uuid", "contact_id": "uuid", "stage_id": "uuid", "status": "text",
                "source": "text", "last_contact_at": "timestamptz", "rank": "text",
            },
            rows,
        )  # fmt: skip
        cursor.execute(
            f"""INSERT INTO leads_lead
                    (id, tenant_id, contact_id, stage_id, status, source, last_contact_at, rank)
                SELECT * FROM {source}
                ON CONFLICT (contact_id) DO UPDATE SET version = leads_lead.version + 1,
                    last_contact_at = greatest(leads_lead.last_contact_at, excluded.last_contact_at)
                RETURNING contact_id, id, xmax = 0, stage_id, status, rank, last_contact_at, version""",  # noqa: S608
            arrays,
        )
        changes = {
            row[0]: LeadChange(row[1], row[0], row[2], row[3], row[4], row[5], row[6], row[7])
            for row in cursor.fetchall()
        }
        activities: list[tuple[object, ...]] = [
            (uuid7(), tenant_id, change.lead_id, "CREATED", now, "{}") for change in changes.values() if change.created
        ]
        for touch in touches:
            change = changes[touch.contact_id]
            change.activities += 1
            data = dumps({"messageId": str(touch.message_id), "preview": touch.preview})
            activities.append((uuid7(), tenant_id, change.lead_id, "WHATSAPP_REPLIED", touch.at, data))
        insert_rows(
            cursor,
            "leads_leadactivity",
            {
                "id": "uuid", "tenant_id": "uuid", "lead_id": "uuid", "kind": "text", "at": "timestamptz",
                "metadata": "jsonb",
            },
            activities,
        )  # fmt: skip
    return list(changes.values())


def create_default_stages(*, tenant_id: UUID) -> None:
    """Give a tenant the seven stages of spec/tickets-leads.md section 6; harmless when they exist."""
    with connection.cursor() as cursor:
        insert_rows(
            cursor,
            "leads_pipelinestage",
            {
                "id": "uuid", "tenant_id": "uuid", "name": "text", "status": "text", "colour": "text",
                "is_won": "boolean", "is_lost": "boolean", "order_index": "smallint",
            },
            [
                (uuid7(), tenant_id, name, status, colour, won, lost, index)
                for index, (name, status, colour, won, lost) in enumerate(DEFAULT_STAGES)
            ],
            "ON CONFLICT (tenant_id, status) DO NOTHING",
        )  # fmt: skip


def find_contacts(*, tenant_id: UUID, people: Sequence[tuple[tuple[str, str], ...]]) -> list[UUID | None]:
    """The contact that each set of (kind, value) identities belongs to, without changing anything."""
    with connection.cursor() as cursor:
        known = _find_identities(cursor, tenant_id, list({pair for pairs in people for pair in pairs}))
    return [min((known[pair].id for pair in pairs if pair in known), default=None) for pairs in people]


def add_identities(*, tenant_id: UUID, pairs: dict[tuple[str, str], UUID]) -> None:
    """Give contacts the identities they lack: {(kind, value): contact}. One that another contact has stays there."""
    with connection.cursor() as cursor:
        known = _find_identities(cursor, tenant_id, list(pairs))
        insert_rows(
            cursor,
            "leads_contactidentity",
            _IDENTITY,
            [
                (uuid7(), tenant_id, contact_id, *pair, False)
                for pair, contact_id in sorted(pairs.items())
                if pair not in known
            ],
            "ON CONFLICT (tenant_id, kind, value) DO NOTHING",
        )


def save_contact(*, actor: User, contact: Contact) -> dict[str, list[Any]]:
    """Write a person's corrections to a contact (name, notes, blocked); returns the changed fields.

    A changed name is the agent's from now on: the broker never overwrites it (D10).
    """
    if Contact.objects.filter(pk=contact.pk).exclude(name=contact.name).exists():
        contact.name_source = Contact.NameSource.AGENT
    changes = save_audited(actor=actor, row=contact, fields=_CONTACT_FIELDS, action="contact.saved")
    if changes:
        Contact.objects.filter(pk=contact.pk).update(version=F("version") + 1)
    return changes


def edit_contact(
    *,
    actor: User,
    contact_id: UUID,
    name: str | None = None,
    notes: str | None = None,
    custom_fields: Mapping[str, Any] | None = None,
    is_blocked: bool | None = None,
    version: int | None = None,
) -> Contact:
    """Change what is named, under the row lock; `custom_fields` by key (None removes one).

    Raises: NotFound, ContactChanged (stale version), ValidationFailed (custom fields over 64 KB).
    """
    contact: Contact | None = Contact.objects.select_for_update().filter(pk=contact_id).first()
    if contact is None:
        raise NotFound("Contato não encontrado.")
    if version is not None and version != contact.version:
        raise ContactChanged(version=contact.version)
    if name is not None:
        contact.name, contact.name_source = name.strip() or contact.name, Contact.NameSource.AGENT
    contact.notes = contact.notes if notes is None else notes
    contact.is_blocked = contact.is_blocked if is_blocked is None else is_blocked
    merged = {**contact.custom_fields, **(custom_fields or {})}
    contact.custom_fields = {key: value for key, value in merged.items() if value is not None}
    if len(dumps(contact.custom_fields) or "") > MOST_CUSTOM_FIELDS:
        raise ValidationFailed([{"field": "customFields", "message": "Os campos passam de 64 KB."}])
    save_contact(actor=actor, contact=contact)
    return contact


def save_stage(*, actor: User, stage: PipelineStage) -> None:
    """Create or change a stage of the pipeline. The status it stands for is that of its leads, and stays.

    Raises: UnableToSave.
    """
    _save(actor, stage, ("name", "status", "colour", "order_index", "is_won", "is_lost"), "stage.saved")


def save_tag(*, actor: User, tag: Tag) -> None:
    """Create or change a tag. Raises: UnableToSave."""
    _save(actor, tag, ("name", "colour"), "tag.saved")


def _save(actor: User, row: PipelineStage | Tag, fields: Sequence[str], action: str) -> None:
    if not actor.may("settings:write"):
        raise UnableToSave("Só administradores mudam esta configuração.")
    try:
        with transaction.atomic():
            save_audited(actor=actor, row=row, fields=fields, action=action)
    except IntegrityError as error:
        raise UnableToSave from error


# --- Steps of upsert_contacts, in the order they are called ------------------------------------------------------


def _find_identities(cursor: CursorWrapper, tenant_id: UUID, pairs: Sequence[tuple[str, str]]) -> Known:
    if not pairs:
        return {}
    cursor.execute(
        """SELECT i.kind, i.value, c.id, c.name, c.kind, c.name_source
           FROM unnest(%s::text[], %s::text[]) AS w (kind, value)
           JOIN leads_contactidentity i ON i.tenant_id = %s AND i.kind = w.kind AND i.value = w.value
           JOIN leads_contact c ON c.id = i.contact_id""",
        [[kind for kind, _ in pairs], [value for _, value in pairs], tenant_id],
    )
    rows: dict[UUID, ContactRow] = {}
    known: Known = {}
    for kind, value, contact_id, name, contact_kind, name_source in cursor.fetchall():
        row = rows.setdefault(contact_id, ContactRow(contact_id, name, contact_kind, name_source))
        known[kind, value] = row
    return known


def _group_unknown(people: Sequence[Person], known: Known) -> list[tuple[UUID, Person]]:
    """The people none of whose identities is known, once each: those that share an identity are one person."""
    groups: dict[tuple[str, str], tuple[UUID, Person]] = {}
    fresh: list[tuple[UUID, Person]] = []
    for person in people:
        if any(pair in known for pair in person.identities):
            continue
        entry = next((groups[pair] for pair in person.identities if pair in groups), None)
        if entry is None:
            entry = (uuid7(), person)
            fresh.append(entry)
        for pair in person.identities:
            groups.setdefault(pair, entry)
    return fresh


def _insert_contacts(cursor: CursorWrapper, tenant_id: UUID, fresh: list[tuple[UUID, Person]], now: datetime) -> None:
    """Insert contacts whose first identity could be claimed; a lost race leaves no contact behind."""
    # Sorted, so that two batches that meet on the same identities wait for each other in one order.
    fresh = sorted(fresh, key=lambda entry: entry[1].identities)
    claims = [(uuid7(), tenant_id, contact_id, *person.identities[0], True) for contact_id, person in fresh]
    cursor.execute("SET CONSTRAINTS leads_contactidentity_contact_id_same_tenant DEFERRED")
    insert_rows(
        cursor,
        "leads_contactidentity",
        _IDENTITY,
        claims,
        "ON CONFLICT (tenant_id, kind, value) DO NOTHING RETURNING contact_id",
    )
    won = {row[0] for row in cursor.fetchall()}
    rows = [(contact_id, person) for contact_id, person in fresh if contact_id in won]
    if rows:
        source, arrays = unnest(
            {
                "id": "uuid", "kind": "text", "name": "text", "push_name": "text", "document": "text",
                "registrations": "text", "avatar_url": "text",
            },
            [
                (
                    contact_id,
                    "GROUP" if person.is_group else "PERSON",
                    person.name or _number(person),
                    person.push_name or "",
                    person.document or "",
                    "\x1f".join(person.registrations),
                    person.avatar_url or "",
                )
                for contact_id, person in rows
            ],
        )  # fmt: skip
        cursor.execute(
            f"""INSERT INTO leads_contact (id, tenant_id, kind, name, name_source, push_name, document, registrations,
                    avatar_url, is_blocked, notes, custom_fields, source, last_interaction_at)
                SELECT id, %s, kind, name, 'BROKER', push_name, document,
                    coalesce(string_to_array(nullif(registrations, ''), chr(31)), '{{}}'), avatar_url, false, '',
                    '{{}}', 'WHATSAPP', %s
                FROM {source} AS p (id, kind, name, push_name, document, registrations, avatar_url)""",  # noqa: S608
            [tenant_id, now, *arrays],
        )
    cursor.execute("SET CONSTRAINTS leads_contactidentity_contact_id_same_tenant IMMEDIATE")


def _number(person: Person) -> str:
    """What a contact without a name is called: its phone, never an address of the wire."""
    values = dict(person.identities)
    if person.is_group:
        return GROUP_NO_NAME
    return values.get("phone") or (f"+{values['wa_address']}" if "wa_address" in values else NO_NAME)


def _oldest(person: Person, known: Known) -> ContactRow:
    """The contact of a person; where identities point to several, the oldest (merging is a later step)."""
    return min(
        {known[pair].id: known[pair] for pair in person.identities if pair in known}.values(), key=lambda c: c.id
    )


def _add_missing(
    cursor: CursorWrapper, tenant_id: UUID, people: Sequence[Person], found: Sequence[ContactRow], known: Known
) -> None:
    missing = {
        pair: contact.id
        for person, contact in zip(people, found, strict=True)
        for pair in person.identities
        if pair not in known
    }
    insert_rows(
        cursor,
        "leads_contactidentity",
        _IDENTITY,
        [(uuid7(), tenant_id, contact_id, *pair, False) for pair, contact_id in sorted(missing.items())],
        "ON CONFLICT (tenant_id, kind, value) DO NOTHING",
    )


def _refresh(
    cursor: CursorWrapper, tenant_id: UUID, people: Sequence[Person], found: Sequence[ContactRow], now: datetime
) -> None:
    """Take over what the events know better: a name where the broker may name, and fields that came with them."""
    updates: dict[UUID, tuple[UUID, str | None, str | None, str | None, str | None, str | None]] = {}
    for person, contact in zip(people, found, strict=True):
        name = person.name if person.name and contact.name_source == "BROKER" else None
        if name:
            contact.name = name
        _, *before = updates.get(contact.id, (contact.id, None, None, None, None, None))
        after = (
            name, person.push_name, person.document, person.avatar_url, "\x1f".join(person.registrations) or None
        )  # fmt: skip
        merged = [new or old for new, old in zip(after, before, strict=True)]
        updates[contact.id] = (contact.id, merged[0], merged[1], merged[2], merged[3], merged[4])
    source, arrays = unnest(
        {
            "id": "uuid", "name": "text", "push_name": "text", "document": "text", "avatar_url": "text",
            "registrations": "text",
        },
        [updates[key] for key in sorted(updates)],
    )  # fmt: skip
    cursor.execute(
        f"""UPDATE leads_contact c SET name = coalesce(u.name, c.name), push_name = coalesce(u.push_name, c.push_name),
                document = coalesce(u.document, c.document), avatar_url = coalesce(u.avatar_url, c.avatar_url),
                registrations = coalesce(string_to_array(u.registrations, chr(31)), c.registrations),
                last_interaction_at = greatest(c.last_interaction_at, %s)
            FROM {source} AS u (id, name, push_name, document, avatar_url, registrations)
            WHERE c.id = u.id AND c.tenant_id = %s""",  # noqa: S608
        [now, *arrays, tenant_id],
    )
