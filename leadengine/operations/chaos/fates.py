"""What became of every message: beside what the doors promised, what the database says, and what the phones hold."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from leadengine.operations.chaos.writers import Promise

ARRIVED = {"SENT", "DELIVERED", "READ"}
ENDED = {"FAILED", "UNCONFIRMED"}


@dataclass(frozen=True, slots=True)
class Try:
    """One attempt as it is kept."""

    outcome: str
    code: str
    claimed_at: datetime
    finished_at: datetime | None


@dataclass(frozen=True, slots=True)
class Row:
    """A message of ours in the database; `merged` when it was an echo that became one with another row."""

    id: str
    text: str
    status: str
    source: str
    position: int
    external_id: str | None
    error: dict[str, Any] | None
    merged: bool
    tries: tuple[Try, ...] = ()


@dataclass(frozen=True, slots=True)
class Arrival:
    """A message that a phone holds."""

    id: str
    text: str


@dataclass(slots=True)
class Findings:
    """What was found; `late` are arrivals that the broker had reported as failed before it sent them all the same."""

    arrived: int = 0
    late: int = 0
    ended: Counter[str] = field(default_factory=Counter)  # "UNCONFIRMED BROKER_TIMEOUT": of those that never arrived
    differences: list[str] = field(default_factory=list)


def judge_fates(*, promises: Sequence[Promise], rows: Sequence[Row], arrivals: Sequence[Arrival]) -> Findings:
    """Compare. `arrivals` are in the order in which each phone got them."""
    shown = {row.id: row for row in rows if not row.merged}
    held: dict[str, list[Arrival]] = defaultdict(list)
    for arrival in arrivals:
        held[arrival.text].append(arrival)
    found = Findings(arrived=sum(bool(held.get(promise.text)) for promise in promises))
    found.differences += _strangers(promises, shown.values(), held)
    for promise in promises:
        row = shown.get(promise.message_id)
        if row is None:
            found.differences.append(f"{promise.text}: accepted, and not in the database")
            continue
        found.differences += [f"{promise.text}: {what}" for what in _judge(row, held.get(promise.text, []))]
        if promise.text not in held:
            found.ended[f"{row.status} {(row.error or {}).get('code', '')}".strip()] += 1
    _judge_order(promises, shown, arrivals, found)
    return found


def _strangers(promises: Sequence[Promise], rows: Iterable[Row], held: dict[str, list[Arrival]]) -> Iterator[str]:
    """What nobody was promised: a second bubble, a message that somebody else wrote."""
    known, texts = {promise.message_id for promise in promises}, {promise.text for promise in promises}
    for row in rows:
        if row.id not in known:
            yield f"{row.text}: a row of {row.source} ({row.status}) that no door accepted"
    yield from (f"{text}: at the phone, and accepted by no door" for text in held.keys() - texts)


def _judge(row: Row, held: Sequence[Arrival]) -> Iterator[str]:
    """The fate of one message."""
    if len(held) > 1:
        yield f"at the phone {len(held)} times"
    if held and row.status not in ARRIVED:
        yield f"at the phone, and {row.status} {row.error}"
    if held and row.status in ARRIVED and row.external_id != held[0].id:
        yield f"at the phone as {held[0].id}, and known as {row.external_id}"
    if not held and row.status not in ENDED:
        yield f"never arrived, and {row.status}"
    if not held and row.status in ENDED and not (row.error or {}).get("code"):
        yield f"never arrived, and {row.status} without a reason"
    if any(one.outcome != "QUEUED" for one in row.tries[:-1]):
        yield f"tried again after it may have left: {[(one.outcome, one.code) for one in row.tries]}"


def _judge_order(
    promises: Sequence[Promise], rows: dict[str, Row], arrivals: Sequence[Arrival], found: Findings
) -> None:
    """In each conversation positions follow acceptance, and arrivals follow positions.

    A broker may say that a send failed and send it later all the same; who waited behind it has left by then. Only such
    a message may arrive after its successors, and only after those that were claimed once its outcome was written.
    """
    by_text = {promise.text: promise for promise in promises}
    conversations: dict[int, list[Promise]] = defaultdict(list)
    for promise in promises:
        conversations[promise.conversation].append(promise)
    for index, listed in conversations.items():
        places = [rows[one.message_id].position for one in listed if one.message_id in rows]
        if places != sorted(places):
            found.differences.append(f"conversation {index}: positions {places} do not follow the order of acceptance")
    passed: dict[int, list[Row]] = defaultdict(list)
    for arrival in arrivals:
        own = by_text.get(arrival.text)
        row = rows.get(own.message_id) if own else None
        if own is None or row is None:
            continue
        before = [one for one in passed[own.conversation] if one.position > row.position]
        passed[own.conversation].append(row)
        if before and all(_had_ended(row, one) for one in before):
            found.late += 1
        elif before:
            found.differences.append(f"{own.text}: arrived after {[one.text for one in before[:3]]}")


def _had_ended(row: Row, successor: Row) -> bool:
    """Whether the outcome of a row was unknown, and written, when its successor was claimed."""
    if not row.tries or not successor.tries or row.tries[-1].outcome != "UNCONFIRMED":
        return False
    finished = row.tries[-1].finished_at
    return finished is not None and finished <= successor.tries[-1].claimed_at
