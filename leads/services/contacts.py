"""Contacts from what events say of them: found or made by identity, set-based, once however many race."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from django.db import connection
from django.db.backends.utils import CursorWrapper

from leadengine.ids import uuid7
from leadengine.sql import insert_rows, unnest
from leads.services.grouping import Group, Pair, find_clashes, group_people
from leads.services.merging import NO_NAME, find_current, merge_clashes
from leads.services.phones import other_form

_IDENTITY = {
    "id": "uuid", "tenant_id": "uuid", "contact_id": "uuid", "kind": "text", "value": "text", "is_primary": "boolean",
}  # fmt: skip
_PHONE = "phone"
_OWN = "contact"  # no kind of the table: a contact's own id among addresses
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
    addresses: set[Pair] = field(default_factory=set)


Known = dict[Pair, list[ContactRow]]  # address -> its contacts: two when a number's other form has one of its own


def upsert_contacts(*, tenant_id: UUID, people: Sequence[Person], now: datetime) -> list[ContactRow]:
    """Find or create the contact of each person, add missing identities, and take over better names.

    People who share an address are one person; addresses of one person that lead to several contacts merge these into
    the oldest. Concurrent first events of one person make one contact, by the unique constraint on the identity:
    insert, on conflict read again. Result i belongs to people[i].
    """
    wanted = [person.identities for person in people]
    while True:
        known = _find_merged(tenant_id, wanted, now)
        groups = group_people(wanted, known)
        with connection.cursor() as cursor:
            fresh = [(uuid7(), _join(people, group)) for group in groups if not group.contacts]
            if fresh:
                _insert_contacts(cursor, tenant_id, fresh, now)
                known = _find_identities(cursor, tenant_id, wanted)
                groups = group_people(wanted, known)
            found = _choose(wanted, groups, known)
            # Locked from here on. A contact that was merged away since it was read shows now: look again.
            if _refresh(cursor, tenant_id, people, found, now):
                _add_missing(cursor, tenant_id, wanted, [contact.id for contact in found], known)
                return found


def find_contacts(*, tenant_id: UUID, people: Sequence[tuple[Pair, ...]]) -> list[UUID | None]:
    """The contact that each set of (kind, value) identities belongs to, without changing anything."""
    with connection.cursor() as cursor:
        known = _find_identities(cursor, tenant_id, people)
    return [
        min((contact.id for pair in pairs for contact in known.get(pair, ())), default=None) for pairs in people
    ]  # fmt: skip


def learn_identities(*, tenant_id: UUID, learned: Sequence[tuple[UUID, tuple[Pair, ...]]], now: datetime) -> None:
    """Later copies of events brought addresses of contacts: those they lack are added.

    An address that another contact has proves that the two are one person: they are merged.
    """
    if not learned:
        return
    current = find_current(ids={contact_id for contact_id, _ in learned})
    rows = {contact_id: ContactRow(contact_id, "", "", "") for contact_id in current.values()}
    wanted = [((_OWN, str(current[contact_id])), *pairs) for contact_id, pairs in learned]
    own: Known = {(_OWN, str(contact_id)): [row] for contact_id, row in rows.items()}
    with connection.cursor() as cursor:
        known = _find_identities(cursor, tenant_id, wanted)
        clashes = find_clashes(wanted, known | own)
        if clashes:
            merge_clashes(tenant_id=tenant_id, clashes=clashes, now=now)
            known = _find_identities(cursor, tenant_id, wanted)
            current = find_current(ids=current)
        contacts = [current[contact_id] for contact_id, _ in learned]
        _add_missing(cursor, tenant_id, [pairs for _, pairs in learned], contacts, known)


def list_addresses(*, tenant_id: UUID, pairs: Sequence[Pair]) -> list[str]:
    """All that one person is called by: these addresses, and those of the contact that has one of them."""
    with connection.cursor() as cursor:
        cursor.execute(
            """SELECT DISTINCT o.value FROM unnest(%s::text[], %s::text[]) AS w (kind, value)
               JOIN leads_contactidentity i ON i.tenant_id = %s AND i.kind = w.kind AND i.value = w.value
               JOIN leads_contactidentity o ON o.contact_id = i.contact_id""",
            [[kind for kind, _ in pairs], [value for _, value in pairs], tenant_id],
        )
        return sorted({value for _, value in pairs}.union(row[0] for row in cursor.fetchall()))


def note_activity(*, tenant_id: UUID, contact_ids: Iterable[UUID], now: datetime) -> None:
    """A contact did something that is no message (a reaction): it was seen, and nothing else changes."""
    with connection.cursor() as cursor:
        cursor.execute(
            """UPDATE leads_contact SET last_interaction_at = greatest(last_interaction_at, %s)
               WHERE tenant_id = %s AND id = ANY(%s)""",
            [now, tenant_id, sorted(contact_ids)],
        )


def add_identities(*, tenant_id: UUID, pairs: dict[tuple[str, str], UUID]) -> None:
    """Give contacts the identities they lack: {(kind, value): contact}. One that another contact has stays there."""
    if not pairs:
        return
    current = find_current(ids=set(pairs.values()))
    with connection.cursor() as cursor:
        wanted, contacts = [(pair,) for pair in pairs], [current[contact_id] for contact_id in pairs.values()]
        _add_missing(cursor, tenant_id, wanted, contacts, _find_identities(cursor, tenant_id, wanted))


# --- Steps of upsert_contacts, in the order they are called ------------------------------------------------------


def _find_merged(tenant_id: UUID, wanted: Sequence[tuple[Pair, ...]], now: datetime) -> Known:
    """The contacts of these addresses, once those that prove to be one person are one."""
    with connection.cursor() as cursor:
        known = _find_identities(cursor, tenant_id, wanted)
        clashes = find_clashes(wanted, known)
        if clashes:
            merge_clashes(tenant_id=tenant_id, clashes=clashes, now=now)
            known = _find_identities(cursor, tenant_id, wanted)
    return known


def _find_identities(cursor: CursorWrapper, tenant_id: UUID, wanted: Sequence[tuple[Pair, ...]]) -> Known:
    """The contacts of each address, and of the other form of a Brazilian mobile; at most two of them."""
    asked = {pair: pair for pairs in wanted for pair in pairs}
    exact = list(asked)
    for kind, value in exact:
        if kind == _PHONE and (other := other_form(value)):
            asked.setdefault((kind, other), (kind, value))
    if not asked:
        return {}
    cursor.execute(
        """SELECT i.kind, i.value, c.id, c.name, c.kind, c.name_source, c.merged_into_id
           FROM unnest(%s::text[], %s::text[]) AS w (kind, value)
           JOIN leads_contactidentity i ON i.tenant_id = %s AND i.kind = w.kind AND i.value = w.value
           JOIN leads_contact c ON c.id = i.contact_id""",
        [[kind for kind, _ in asked], [value for _, value in asked], tenant_id],
    )
    found = cursor.fetchall()
    rows: dict[UUID, ContactRow] = {}
    targets = _load_targets(cursor, [row[2] for row in found if row[6] is not None])
    known: Known = {}
    for kind, value, contact_id, name, contact_kind, name_source, _ in found:
        row = targets.get(contact_id) or rows.setdefault(
            contact_id, ContactRow(contact_id, name, contact_kind, name_source)
        )
        row.addresses.add((kind, value))
        for pair in {asked[kind, value], (kind, value)}:
            if row not in known.setdefault(pair, []):
                known[pair].append(row)
    return known


def _load_targets(cursor: CursorWrapper, merged: Sequence[UUID]) -> dict[UUID, ContactRow]:
    """Who merged contacts are today. An address reaches one only when it was learned while the merge was under way."""
    if not merged:
        return {}
    current = find_current(ids=merged)
    cursor.execute("SELECT id, name, kind, name_source FROM leads_contact WHERE id = ANY(%s)", [list(current.values())])
    rows = {row[0]: ContactRow(*row) for row in cursor.fetchall()}
    return {contact_id: rows[target_id] for contact_id, target_id in current.items()}


def _join(people: Sequence[Person], group: Group[ContactRow]) -> Person:
    """The people of a new contact as one: the first to say something decides."""
    members = [people[index] for index in group.members]
    pairs = dict.fromkeys(pair for person in members for pair in person.identities)
    first = members[0]
    return Person(
        tuple(pairs),
        is_group=first.is_group,
        name=next((person.name for person in members if person.name), None),
        push_name=next((person.push_name for person in members if person.push_name), None),
        document=next((person.document for person in members if person.document), None),
        registrations=next((person.registrations for person in members if person.registrations), ()),
        avatar_url=next((person.avatar_url for person in members if person.avatar_url), None),
    )


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


def _choose(wanted: Sequence[tuple[Pair, ...]], groups: Sequence[Group[ContactRow]], known: Known) -> list[ContactRow]:
    """The contact of each person: the group's, or where parted contacts share the group that of the first address."""
    chosen: dict[int, ContactRow] = {}
    for group in groups:
        oldest = group.contacts[min(group.contacts)]
        for index in group.members:
            own = [contact for pair in wanted[index] for contact in known.get(pair, ())]
            chosen[index] = own[0] if own and len(group.contacts) > 1 else oldest
    return [chosen[index] for index in range(len(wanted))]


def _add_missing(
    cursor: CursorWrapper,
    tenant_id: UUID,
    wanted: Sequence[tuple[Pair, ...]],
    contacts: Sequence[UUID],
    known: Known,
) -> None:
    """Give each contact those of its person's addresses that nobody has."""
    taken = {pair for rows in known.values() for row in rows for pair in row.addresses}
    missing: dict[Pair, UUID] = {}
    for pairs, contact_id in zip(wanted, contacts, strict=True):
        for pair in pairs:
            if pair not in taken:
                missing.setdefault(pair, contact_id)
    insert_rows(
        cursor,
        "leads_contactidentity",
        _IDENTITY,
        [(uuid7(), tenant_id, contact_id, *pair, False) for pair, contact_id in sorted(missing.items())],
        "ON CONFLICT (tenant_id, kind, value) DO NOTHING",
    )


def _refresh(
    cursor: CursorWrapper, tenant_id: UUID, people: Sequence[Person], found: Sequence[ContactRow], now: datetime
) -> bool:
    """Take over what the events know better: a name where the broker may name, and fields that came with them.

    False when one of the contacts has been merged into another meanwhile.
    """
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
            WHERE c.id = u.id AND c.tenant_id = %s AND c.merged_into_id IS NULL""",  # noqa: S608
        [now, *arrays, tenant_id],
    )
    return bool(cursor.rowcount == len(updates))
