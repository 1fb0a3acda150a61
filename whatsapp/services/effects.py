"""Items of a batch that change messages: reactions, edits, revokes, acks and votes (spec/inbound.md 11 and 13)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from leads.services import list_addresses
from tickets.services.effects import OURSELVES, Ack, apply_acks
from tickets.services.polls import CONTACT, Asked, Vote, record_votes, remember_polls
from whatsapp.schemas import Address, Edit, InboundMessage, OutboundEcho, PollVote, Reaction, Revoke, StatusUpdate
from whatsapp.services.parking import KEPT, Effect, apply_effect, forget_expired, meet, park

if TYPE_CHECKING:
    from whatsapp.services.batch import Work


def actor_of(address: Address) -> str:
    """One stable name for a person who reacts, edits or revokes: the phone when it is known."""
    return address.phone or address.lid or address.jid or address.wa_address or ""


def apply_effects(*, tenant_id: UUID, works: Sequence[Work], now: datetime) -> None:
    """Reactions, edits and revokes change their target, or wait for it seven days."""
    for work in works:
        item = work.item
        if not isinstance(item, Reaction | Edit | Revoke):
            continue
        key = (work.session_id, item.target_external_id)
        data: dict[str, Any] = {"at": item.sent_at.isoformat()}
        if isinstance(item, Reaction):
            data["emoji"] = item.emoji
        elif isinstance(item, Edit):
            data["text"] = item.content.text or ""
        actor = OURSELVES
        if not item.from_me:
            actor, aliases = _name(tenant_id, item.actor)
            if aliases:
                data["aliases"] = aliases
        effect = Effect(item.kind, key, actor, data, (work.event_id, work.index))
        message_id = apply_effect(tenant_id=tenant_id, kind=item.kind, key=key, actor=actor, data=data)
        if message_id is None:
            meet([key])
            message_id = apply_effect(tenant_id=tenant_id, kind=item.kind, key=key, actor=actor, data=data)
        if message_id is not None:
            work.end("applied", item.reason, message_id)
        else:
            _wait_for_target(tenant_id, work, effect, item.reason, now)


def apply_ack_items(*, tenant_id: UUID, works: Sequence[Work], now: datetime) -> None:
    """Acks move messages of ours up, or wait for them seven days."""
    works = [work for work in works if isinstance(work.item, StatusUpdate)]
    acks = [Ack(work.key, work.item.status, work.item.at, work.item.error_code) for work in works]  # type: ignore[union-attr]
    fates = apply_acks(tenant_id=tenant_id, acks=acks)
    missed = [number for number, fate in enumerate(fates) if fate == "not_found"]
    if missed:
        meet([acks[number].key for number in missed])
        again = apply_acks(tenant_id=tenant_id, acks=[acks[number] for number in missed])
        for number, fate in zip(missed, again, strict=True):
            fates[number] = fate
    for work, ack, fate in zip(works, acks, fates, strict=True):
        if fate == "applied":
            work.end("applied", "ack_applied")
        elif fate != "not_found":
            work.end("ignored", f"ack_{fate}")
        else:
            data = {"status": ack.status, "at": ack.at.isoformat(), "error": ack.error_code}
            effect = Effect("ack", ack.key, "", data, (work.event_id, work.index))
            _wait_for_target(tenant_id, work, effect, "ack_message_not_found", now)


def count_votes(*, tenant_id: UUID, works: Sequence[Work]) -> None:
    """Polls that were asked are kept, votes whose choice is told count. A vote that counts is an accepted one."""
    remember_polls(tenant_id=tenant_id, asked=[asked for work in works if (asked := _asked_of(work))])
    told = [(work, vote) for work in works if work.fate in _SEEN and (vote := _vote_of(work))]
    counted = record_votes(tenant_id=tenant_id, votes=[vote for _, vote in told])
    for (work, _), counts in zip(told, counted, strict=True):
        if counts and work.fate == "duplicate":
            work.end("enriched", "poll_choice" if work.item.reason == "poll_choice" else "message_enriched",
                     work.message_id)  # fmt: skip


_SEEN = {"stored", "enriched", "duplicate"}


def _wait_for_target(tenant_id: UUID, work: Work, effect: Effect, reason: str, now: datetime) -> None:
    """Park an effect. It is counted at once; when its time is over its line ends, and that counts no more."""
    if work.expired:
        work.end("ignored", reason)
        work.counts = False
        forget_expired(tenant_id=tenant_id, now=now)
        return
    park(tenant_id=tenant_id, effect=effect, now=now)
    work.fate, work.reason, work.due_at, work.expires_at = "parked", reason, now + KEPT, now + KEPT


def _name(tenant_id: UUID, address: Address) -> tuple[str, list[str]]:
    """An actor's name, and the other addresses that the same person is known by."""
    name = actor_of(address)
    known = list_addresses(tenant_id=tenant_id, pairs=address.identities())
    return name, [value for value in known if value != name]


def _asked_of(work: Work) -> Asked | None:
    item = work.item
    if not isinstance(item, InboundMessage | OutboundEcho) or item.content.type != "POLL" or not item.content.poll:
        return None
    poll = item.content.poll
    return Asked(
        work.key, poll.get("question") or "", tuple(poll.get("options") or ()), poll.get("selectable"),
        poll.get("secret"),
    )  # fmt: skip


def _vote_of(work: Work) -> Vote | None:
    item = work.item
    if not isinstance(item, PollVote) or item.poll_external_id is None or item.options is None:
        return None
    direct = not item.is_group and not set(item.voter.identities()).isdisjoint(item.address.identities())
    return Vote(
        key=work.key,
        poll=(work.session_id, item.poll_external_id),
        voter=CONTACT if direct else actor_of(item.voter),
        options=tuple(item.options),
        at=item.sent_at,
        question=item.question or "",
        known_options=tuple(str(total["text"]) for total in item.totals or ()),
    )
