"""Contacts that are one person become one, and are parted again (spec/tickets-leads.md section 3).

Whoever merges or parts holds the tenant's lock first, then the contacts in id order, then what the followers lock
(tickets). The inbound drain holds the tenant's lock for each of its batches, so the two never wait crosswise.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import cache
from typing import Any, Literal, Protocol
from uuid import UUID

from django.conf import settings
from django.db import connection
from django.utils.module_loading import import_string

from leadengine import metrics
from leadengine.accounts.models import User
from leadengine.accounts.services import write_audit
from leadengine.errors import DomainError, NotFound
from leads.models import Contact, ContactIdentity, ContactMerge, ContactTag
from leads.services.grouping import Clash
from leads.services.lead_merging import merge_leads, part_leads
from leads.services.values import take_back, wire

Preserved = Literal["name", "document", "avatarUrl", "notes", "ownerId"]
NO_NAME = "Contato sem número"
_KEPT = {"name": "name", "document": "document", "avatarUrl": "avatar_url", "notes": "notes", "ownerId": "owner_id"}
_NAMES = ("name", "name_source", "push_name")
_FIELDS = (
    *_NAMES, "document", "registrations", "avatar_url", "is_blocked", "owner_id", "notes", "custom_fields", "consent",
    "last_interaction_at",
)  # fmt: skip


class UnableToMerge(DomainError):
    """Estes contatos não podem ser unidos. Details: contactId."""

    code = "MERGE_REFUSED"
    status = 409


class UnableToUndo(DomainError):
    """Esta união não pode mais ser desfeita. Details: mergeId where a later merge must be undone first."""

    code = "UNDO_REFUSED"
    status = 409


class Follower(Protocol):
    """What hangs on contacts in the apps above; named in settings.CONTACT_FOLLOWERS."""

    def move(self, *, source: Contact, target: Contact, actor: User | None, now: datetime) -> dict[str, Any]:
        """Move every row of `source` to `target`; returns what `give_back` needs, as JSON."""

    def give_back(
        self, *, source: Contact, target: Contact, moved: Mapping[str, Any], actor: User | None, now: datetime
    ) -> None:
        """Give `source` the rows back that were its own; rows made since stay."""


def merge_contacts(
    *,
    actor: User | None,
    target_id: UUID,
    source_ids: Sequence[UUID],
    evidence: str = ContactMerge.Evidence.MANUAL,
    preserve: Mapping[Preserved, UUID] | None = None,
    now: datetime,
) -> list[ContactMerge]:
    """Merge sources into a target; one record per source. `preserve`: whose value of a field stays, by contact id.

    A field of the target that is empty is filled from the sources. Raises: NotFound, UnableToMerge (the same contact
    twice, one merged already, a person with a group).
    """
    tenant_id = Contact.objects.filter(pk=target_id).values_list("tenant_id", flat=True).first()
    if tenant_id is None:
        raise NotFound("Contato não encontrado.")
    if target_id in source_ids or len(set(source_ids)) < len(source_ids):
        raise UnableToMerge("Escolha contatos diferentes.")
    lock_merging(tenant_id=tenant_id)
    rows = _lock(tenant_id, [target_id, *source_ids])
    if len(rows) < 1 + len(source_ids):
        raise NotFound("Contato não encontrado.")
    for row in rows.values():
        if row.merged_into_id is not None:
            raise UnableToMerge("Um dos contatos já faz parte de outro.", contactId=str(row.pk))
        if row.kind != rows[target_id].kind:
            raise UnableToMerge("Um grupo e uma pessoa não podem ser unidos.", contactId=str(row.pk))
    return [
        _fold(rows[target_id], rows[source_id], evidence, actor, preserve or {}, now) for source_id in source_ids
    ]  # fmt: skip


def merge_clashes(*, tenant_id: UUID, clashes: Iterable[Clash], now: datetime) -> list[ContactMerge]:
    """Merge what events proved to be one person into the oldest contact; pairs that were parted stay apart."""
    lock_merging(tenant_id=tenant_id)
    parted: set[frozenset[UUID]] | None = None
    made: list[ContactMerge] = []
    for clash in clashes:
        target_id, *others = sorted(set(find_current(ids=clash.contacts).values()))
        if not others:
            continue
        parted = _parted_pairs(tenant_id) if parted is None else parted
        sources = [source_id for source_id in others if frozenset((target_id, source_id)) not in parted]
        rows = _lock(tenant_id, [target_id, *sources]) if sources else {}
        alike = [rows[source_id] for source_id in sources if rows[source_id].kind == rows[target_id].kind]
        made += [_fold(rows[target_id], source, clash.evidence, None, {}, now) for source in alike]
    return made


def undo_merge(*, actor: User, merge_id: UUID, now: datetime) -> ContactMerge:
    """Part a merge: the source returns with the rows that were its own; the pair is never merged again by itself.

    Raises: NotFound; UnableToUndo (undone already, older than CONTACT_MERGE_UNDO_DAYS, the target merged on since).
    """
    merge: ContactMerge | None = ContactMerge.objects.filter(pk=merge_id).first()
    if merge is None:
        raise NotFound("União não encontrada.")
    lock_merging(tenant_id=merge.tenant_id)
    merge.refresh_from_db()
    if merge.undone_at is not None:
        raise UnableToUndo("Esta união já foi desfeita.")
    if now > undo_until(merge):
        raise UnableToUndo(f"Uma união só pode ser desfeita em {settings.CONTACT_MERGE_UNDO_DAYS} dias.")
    rows = _lock(merge.tenant_id, [merge.source_id, merge.target_id])
    source, target = rows[merge.source_id], rows[merge.target_id]
    if target.merged_into_id is not None:
        later = ContactMerge.objects.filter(source=target, undone_at=None).values_list("pk", flat=True).first()
        raise UnableToUndo("Desfaça antes a união mais nova deste contato.", mergeId=str(later))
    _part(merge, source, target, actor, now)
    return merge


def undo_until(merge: ContactMerge) -> datetime:
    """Until when a merge may be undone."""
    until: datetime = merge.created_at + timedelta(days=settings.CONTACT_MERGE_UNDO_DAYS)
    return until


def find_current(*, ids: Iterable[UUID]) -> dict[UUID, UUID]:
    """Each contact and the one it is part of today, which is itself unless it was merged."""
    with connection.cursor() as cursor:
        cursor.execute(
            """WITH RECURSIVE walk (id, now, next) AS (
                   SELECT id, id, merged_into_id FROM leads_contact WHERE id = ANY(%s)
                   UNION ALL SELECT w.id, c.id, c.merged_into_id FROM walk w JOIN leads_contact c ON c.id = w.next)
               SELECT id, now FROM walk WHERE next IS NULL""",
            [list(ids)],
        )
        return dict(cursor.fetchall())


def lock_current(*, tenant_id: UUID, contact_id: UUID) -> UUID | None:
    """The contact that this one is part of today, kept from being merged until the transaction ends; None: unknown."""
    while current := find_current(ids=[contact_id]).get(contact_id):
        rows = Contact.objects.for_tenant(tenant_id).select_for_update(no_key=True).filter(pk=current)
        row = rows.values_list("pk", "merged_into_id").first()
        if row is None or row[1] is None:
            return current if row else None
    return None


def lock_merging(*, tenant_id: UUID) -> None:
    """Let nobody else merge or part contacts of the tenant until the transaction ends. Taken before any row lock."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 3))", [f"contacts {tenant_id}"])


# --- Steps -------------------------------------------------------------------------------------------------------


def _lock(tenant_id: UUID, ids: Sequence[UUID]) -> dict[UUID, Contact]:
    """Lock contacts in id order. Not against foreign keys: who appends to a ticket holds that ticket, which we want."""
    rows = Contact.objects.for_tenant(tenant_id).select_for_update(no_key=True).filter(pk__in=ids).order_by("pk")
    return {row.pk: row for row in rows}


def _parted_pairs(tenant_id: UUID) -> set[frozenset[UUID]]:
    undone = ContactMerge.objects.for_tenant(tenant_id).filter(undone_at__isnull=False)
    pairs = list(undone.values_list("target_id", "source_id"))
    now = find_current(ids={contact_id for pair in pairs for contact_id in pair})
    return {frozenset((now[target_id], now[source_id])) for target_id, source_id in pairs}


def _fold(
    target: Contact,
    source: Contact,
    evidence: str,
    actor: User | None,
    preserve: Mapping[Preserved, UUID],
    now: datetime,
) -> ContactMerge:
    """Merge one locked contact into another."""
    before = {name: getattr(target, name) for name in _FIELDS}
    _take_over(target, source, {field for field, contact_id in preserve.items() if contact_id == source.pk})
    moved: dict[str, Any] = {
        "fields": {
            name: [wire(old), wire(getattr(target, name))]
            for name, old in before.items()
            if old != getattr(target, name)
        },
        "identities": _move_identities(source, target),
        "tags": _move_tags(source, target),
        "lead": merge_leads(source_id=source.pk, target_id=target.pk, actor=actor, now=now),
    }
    for follower in _followers():
        moved |= follower.move(source=source, target=target, actor=actor, now=now)
    target.version, source.version, source.merged_into_id = target.version + 1, source.version + 1, target.pk
    target.save(update_fields=[*_FIELDS, "version"])
    source.save(update_fields=["merged_into", "version"])
    merge: ContactMerge = ContactMerge.objects.create(
        tenant_id=target.tenant_id, target=target, source=source, evidence=evidence, actor=actor, moved=moved,
        created_at=now,
    )  # fmt: skip
    changes = {"sourceId": str(source.pk), "evidence": str(evidence), "mergeId": str(merge.pk)}
    write_audit(tenant_id=target.tenant_id, actor=actor, action="contact.merged", target=target, changes=changes)
    metrics.count(metrics.contact_merges.labels(evidence=str(evidence), action="merge"))
    return merge


def _take_over(target: Contact, source: Contact, preserved: set[Preserved]) -> None:
    """What the one contact knows from both: the target's values, the source's where it has none or they are wanted."""
    better = not _is_named(target) or (target.name_source == "BROKER" != source.name_source)
    if "name" in preserved or (better and _is_named(source)):
        for name in _NAMES:
            setattr(target, name, getattr(source, name))
    for field in ("document", "avatarUrl", "notes", "ownerId"):
        column = _KEPT[field]
        if field in preserved or not getattr(target, column):
            setattr(target, column, getattr(source, column))
    target.push_name = target.push_name or source.push_name
    target.registrations = list(dict.fromkeys([*target.registrations, *source.registrations]))
    target.custom_fields = {**source.custom_fields, **target.custom_fields}
    target.consent = target.consent or source.consent
    target.is_blocked = target.is_blocked or source.is_blocked
    seen = filter(None, (target.last_interaction_at, source.last_interaction_at))
    target.last_interaction_at = max(seen, default=None)


def _is_named(contact: Contact) -> bool:
    """Whether somebody gave it a name: its own number and `Contato sem número` are none."""
    return contact.name_source != Contact.NameSource.BROKER or (
        contact.name != NO_NAME and any(map(str.isalpha, contact.name))
    )


def _move_identities(source: Contact, target: Contact) -> list[list[Any]]:
    """All addresses; the target's primary one of a kind stays the primary one."""
    rows = list(ContactIdentity.objects.filter(contact=source).values_list("pk", "kind", "is_primary"))
    primary = set(ContactIdentity.objects.filter(contact=target, is_primary=True).values_list("kind", flat=True))
    ContactIdentity.objects.filter(contact=source).update(contact=target)
    ContactIdentity.objects.filter(pk__in=[pk for pk, kind, _ in rows if kind in primary]).update(is_primary=False)
    return [[str(pk), is_primary] for pk, _, is_primary in rows]


def _move_tags(source: Contact, target: Contact) -> list[str]:
    have = ContactTag.objects.filter(contact=target).values("tag_id")
    moved = list(ContactTag.objects.filter(contact=source).exclude(tag_id__in=have).values_list("pk", flat=True))
    ContactTag.objects.filter(pk__in=moved).update(contact=target)
    return [str(pk) for pk in moved]


def _part(merge: ContactMerge, source: Contact, target: Contact, actor: User, now: datetime) -> None:
    """Give the source back what was its own."""
    moved = merge.moved
    source.merged_into, source.version, target.version = None, source.version + 1, target.version + 1
    source.save(update_fields=["merged_into", "version"])
    for is_primary in (True, False):
        ids = [pk for pk, was_primary in moved["identities"] if was_primary is is_primary]
        ContactIdentity.objects.filter(pk__in=ids, contact=target).update(contact=source, is_primary=is_primary)
    ContactTag.objects.filter(pk__in=moved["tags"], contact=target).update(contact=source)
    part_leads(source_id=source.pk, target_id=target.pk, moved=moved["lead"], now=now)
    target.save(update_fields=[*take_back(target, moved["fields"]), "version"])
    for follower in _followers():
        follower.give_back(source=source, target=target, moved=moved, actor=actor, now=now)
    merge.undone_at, merge.undone_by = now, actor
    merge.save(update_fields=["undone_at", "undone_by"])
    changes = {"sourceId": str(source.pk), "mergeId": str(merge.pk)}
    write_audit(tenant_id=merge.tenant_id, actor=actor, action="contact.merge_undone", target=target, changes=changes)
    metrics.count(metrics.contact_merges.labels(evidence=merge.evidence, action="undo"))


@cache
def _followers() -> tuple[Follower, ...]:
    return tuple(import_string(path)() for path in settings.CONTACT_FOLLOWERS)
