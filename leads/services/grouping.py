"""Which of the people that events name are one person: pure, by the addresses that they share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar
from uuid import UUID

Pair = tuple[str, str]  # (kind, value) of a ContactIdentity
_ACCOUNT_KINDS = {"lid", "jid"}


class HasId(Protocol):
    """A contact, as far as grouping goes."""

    @property
    def id(self) -> UUID: ...


Found = TypeVar("Found", bound=HasId)


@dataclass(slots=True, eq=False)
class Group(Generic[Found]):
    """People that share addresses, with the contacts they were found to be. `members` are indexes."""

    members: list[int] = field(default_factory=list)
    contacts: dict[UUID, Found] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Clash:
    """Contacts that one event proves to be one person, and what proves it."""

    contacts: tuple[UUID, ...]  # the oldest first
    evidence: str


def group_people(people: Sequence[Iterable[Pair]], known: Mapping[Pair, Sequence[Found]]) -> list[Group[Found]]:
    """Put people into groups that share an address, or a contact that their addresses led to."""
    groups: list[Group[Found]] = []
    of_key: dict[Pair | UUID, Group[Found]] = {}
    for index, pairs in enumerate(people):
        pairs = list(pairs)
        found = {contact.id: contact for pair in pairs for contact in known.get(pair, ())}
        keys: list[Pair | UUID] = [*pairs, *found]
        met = list(dict.fromkeys(of_key[key] for key in keys if key in of_key))
        group: Group[Found] = met[0] if met else Group()
        if not met:
            groups.append(group)
        for other in met[1:]:
            group.members += other.members
            group.contacts |= other.contacts
            groups.remove(other)
            of_key.update({key: group for key, owner in of_key.items() if owner is other})
        group.members.append(index)
        group.contacts |= found
        of_key.update(dict.fromkeys(keys, group))
    for group in groups:
        group.members.sort()
    return groups


def find_clashes(people: Sequence[Iterable[Pair]], known: Mapping[Pair, Sequence[Found]]) -> list[Clash]:
    """The people whose addresses led to several contacts: each event is evidence of its own."""
    clashes: dict[tuple[UUID, ...], Clash] = {}
    for pairs in people:
        pairs = list(pairs)
        contacts = tuple(sorted({contact.id for pair in pairs for contact in known.get(pair, ())}))
        if len(contacts) > 1:
            evidence = "lid_pair" if any(kind in _ACCOUNT_KINDS for kind, _ in pairs) else "phone_variant"
            clashes.setdefault(contacts, Clash(contacts, evidence))
    return list(clashes.values())
