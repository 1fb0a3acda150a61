"""Contacts from what events say of them: found or made by identity, set-based, once however many race."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from django.db import connection
from django.db.backends.utils import CursorWrapper

from leadengine.ids import uuid7
from leadengine.sql import insert_rows, unnest

_IDENTITY = {
    "id": "uuid", "tenant_id": "uuid", "contact_id": "uuid", "kind": "text", "value": "text", "is_primary": "boolean",
}  # fmt: skip
NO_NAME = "Contato sem número"
GROUP_NO_NAME = "Grupo do WhatsApp"


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
