"""Duplicates of the past: contacts whose numbers are two forms of one mobile, found and merged."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from django.db import connection

from leadengine.accounts.scopes import tenant_scope
from leads.models import ContactMerge
from leads.services.grouping import Clash
from leads.services.merging import merge_clashes
from leads.services.phones import CANONICAL_SQL

_FIND = f"""
SELECT array_agg(DISTINCT contact_id ORDER BY contact_id), {CANONICAL_SQL.format("value")} AS number
FROM leads_contactidentity WHERE tenant_id = %s AND kind IN ('phone', 'wa_address')
GROUP BY 2 HAVING count(DISTINCT contact_id) > 1 ORDER BY 1
"""  # noqa: S608 - constants only


@dataclass(frozen=True, slots=True)
class Duplicate:
    """Contacts of one number, the oldest first; `merges` that were made, none in a dry run or when they were parted."""

    tenant_id: UUID
    contacts: tuple[UUID, ...]
    merges: tuple[UUID, ...] = ()


def merge_phone_variants(*, tenant_id: UUID, now: datetime, dry_run: bool = False) -> Iterator[Duplicate]:
    """Merge each group of contacts that share a mobile with and without its ninth digit, a transaction each.

    What was merged when it is stopped stays merged; a second run goes on. Pairs that were parted stay apart.
    """
    with tenant_scope(tenant_id), connection.cursor() as cursor:
        cursor.execute(_FIND, [tenant_id])
        found = [tuple(row[0]) for row in cursor.fetchall()]
    for contacts in found:
        if dry_run:
            yield Duplicate(tenant_id, contacts)
            continue
        with tenant_scope(tenant_id):
            clash = Clash(contacts, ContactMerge.Evidence.PHONE_VARIANT)
            made = merge_clashes(tenant_id=tenant_id, clashes=[clash], now=now)
        yield Duplicate(tenant_id, contacts, tuple(merge.pk for merge in made))
