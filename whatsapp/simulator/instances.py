"""The broker's instances: who they are, what their snapshot says, and the file in which they survive."""

from __future__ import annotations

import json
import re
from collections import Counter, deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from whatsapp.simulator.behaviours import Behaviour, Rate
from whatsapp.simulator.connection import Connection, Line
from whatsapp.simulator.wire import PHONE_SERVER, Json, Message, iso

MESSAGES_KEPT = 20_000
SENT_KEPT = 100_000
NOTE_MAX = 280
NAME_MAX = 80


class BrokerError(Exception):
    """An answer of the broker that is not a success: status, the `error` string and further fields."""

    def __init__(self, status: int, error: str, **more: object) -> None:
        super().__init__(error)
        self.status = status
        self.body = {"error": error, **more}


@dataclass(slots=True)
class RiskGuard:
    """The broker's guard against writing to too many strangers; in memory."""

    threshold: float | None = None
    interleave_every: int = 0
    safe_contacts: list[str] = field(default_factory=list)
    paused: bool = False
    unknown: int = 0
    known: int = 0
    replies: int = 0

    def allows_stranger(self, threshold: float) -> bool:
        """Judges a send to a stranger and pauses when it is one too many; the very first message passes."""
        total = self.unknown + self.known + self.replies
        if total and (self.unknown + 1) / (total + 1) > threshold:
            self.paused = True
        return not self.paused

    def as_json(self, behaviour: Behaviour) -> Json:
        """Writes the block `risk` of a snapshot."""
        total = self.unknown + self.known + self.replies
        return {
            "threshold": self.limit(behaviour),
            "interleaveEvery": self.interleave_every,
            "safeContacts": self.safe_contacts,
            "paused": self.paused,
            "ratio": round(self.unknown / total, 4) if total else 0,
            "unknown": self.unknown,
            "known": self.known,
            "replies": self.replies,
        }

    def limit(self, behaviour: Behaviour) -> float:
        """Gives the threshold in force: what the API set, else the behaviour's."""
        return behaviour.risk.threshold if self.threshold is None else self.threshold


@dataclass(slots=True)
class Tracked:
    """A message the instance knows, with the status that acks gave it."""

    message: Message
    status: int = 0


@dataclass(slots=True)
class Poll:
    """A poll that was sent, with the secret of its votes."""

    message: Message
    secret: bytes
    votes: dict[str, list[str]] = field(default_factory=dict)


class Instance:
    """One WhatsApp number at the broker, with everything that a restart forgets."""

    def __init__(self, id_: str, *, name: str, note: str, metadata: Json, line: Line) -> None:
        self.id = id_
        self.name = name
        self.note = note
        self.metadata = metadata
        self.connection = Connection(id_, line)
        self.messages: dict[str, Tracked] = {}
        self.sent: deque[Json] = deque(maxlen=SENT_KEPT)
        self.polls: dict[str, Poll] = {}
        self.groups: dict[str, str] = {}
        self.contacts: set[str] = set()  # the JIDs that have written to us: anyone else is a stranger
        self.written_to: set[str] = set()
        self.risk = RiskGuard()
        self.counters: Counter[str] = Counter()
        self.acks: Counter[int] = Counter()
        self.timeline: Counter[int] = Counter()
        self.last: Json = {"sentAt": None, "receivedAt": None}
        self._slots: deque[float] = deque()

    def track(self, message: Message, status: int = 0) -> Tracked:
        """Remembers a message, so that acks, quotes, edits and revokes can name it."""
        tracked = self.messages[message.id] = Tracked(message, status)
        if len(self.messages) > MESSAGES_KEPT:
            del self.messages[next(iter(self.messages))]
        return tracked

    def take_slot(self, rate: Rate, now: float) -> bool:
        """Takes a place in the sliding window; refused when it is full. `now` is monotonic, here and below."""
        if self._in_window(rate, now) >= rate.max:
            return False
        self._slots.append(now)
        return True

    def resolve(self, jid: str) -> str:
        """Gives the JID that WhatsApp answers to: a Brazilian mobile may be registered without its ninth digit."""
        variant = _ninth_digit_variant(jid)
        return variant if jid not in self.contacts and variant in self.contacts and variant else jid

    def rename(self, body: Json, now: float) -> None:
        """Changes name and note, and keeps the revision.

        Raises:
            BrokerError: 400 `name_invalid`, `name_empty`, `note_invalid`, `no_updates`.
        """
        changes: Json = {name: body[name] for name in ("name", "note") if name in body}
        if not changes:
            raise BrokerError(400, "no_updates")
        name = changes.get("name", self.name)
        if not isinstance(name, str) or len(name) > NAME_MAX:
            raise BrokerError(400, "name_invalid")
        if not name.strip():
            raise BrokerError(400, "name_empty")
        self.note = checked_note(changes.get("note", self.note))
        self.name = name.strip()
        self.metadata["note"] = self.note
        self.metadata["updatedAt"] = iso(now)
        self.metadata["revisions"].append({"timestamp": iso(now), **changes})

    def summary(self, behaviour: Behaviour, now: float) -> Json:
        """Writes an element of the list of instances."""
        connection = self.connection
        rate, in_window = behaviour.rate, self._in_window(behaviour.rate, now)
        summary: Json = {
            "id": self.id,
            "name": self.name,
            "note": self.note,
            "metadata": self.metadata,
            "connected": connection.state == "open",
            "connectionState": connection.state,
            "connectionUpdatedAt": connection.updated_at,
            "user": connection.user,
            "counters": {
                "sent": self.counters["sent"],
                "received": self.counters["received"],
                "failed": self.counters["failed"],
                "byType": {k[5:]: n for k, n in self.counters.items() if k.startswith("type:")},
                "statusCounts": {str(status): self.acks[status] for status in range(6)},
            },
            "rate": {
                "limit": rate.max,
                "windowMs": rate.window_ms,
                "inWindow": in_window,
                "usage": round(in_window / rate.max, 4) if rate.max else 1,
            },
            "network": {"status": "OK", "proxy": None},
            "risk": self.risk.as_json(behaviour),
            "queue": {"enabled": False, "waiting": 0, "active": 0, "failed": 0},
            "pairedAt": connection.paired_at,
        }
        return summary

    def snapshot(self, behaviour: Behaviour, now: float) -> Json:
        """Writes the snapshot of section 3."""
        part, connection = self.summary(behaviour, now), self.connection
        return {
            **{key: part[key] for key in ("id", "name", "connected", "connectionState", "connectionUpdatedAt")},
            **connection.details(),
            **{key: part[key] for key in ("note", "metadata", "counters")},
            "last": self.last,
            **{key: part[key] for key in ("rate", "risk", "network", "pairedAt", "queue")},
        }

    def delivery(self) -> Json:
        """Counts what became of the messages sent, for /metrics."""
        names = ("pending", "serverAck", "delivered", "read", "played")
        counts = {name: self.acks[status] for status, name in enumerate(names, start=1)}
        return {**counts, "failed": self.acks[0], "inFlight": self.acks[1] + self.acks[2]}

    def _in_window(self, rate: Rate, now: float) -> int:
        while self._slots and self._slots[0] <= now - rate.window_ms / 1000:
            self._slots.popleft()
        return len(self._slots)


def id_of(name: str) -> str:
    """Makes the id out of a name, as the broker does."""
    return re.sub(r"[^A-Za-z0-9_]+", "-", name.lower())


def checked_note(note: object) -> str:
    """Accepts a note of at most 280 characters; none is an empty one."""
    if note is None:
        return ""
    if not isinstance(note, str) or len(note) > NOTE_MAX:
        raise BrokerError(400, "note_invalid")
    return note


def write_state(path: Path, state: Json) -> None:
    """Replaces the state file in one step: a kill leaves the old one or the new one, never half of either."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(json.dumps(state, ensure_ascii=False, indent=1))
    fresh.chmod(0o600)
    fresh.replace(path)


def read_state(path: Path) -> dict[str, Any]:
    """Reads the state file; a missing one is an empty state."""
    return json.loads(path.read_text()) if path.exists() else {}


def persistent(instance: Instance) -> Json:
    """Gives what of an instance survives a restart."""
    connection = instance.connection
    return {
        "id": instance.id,
        "name": instance.name,
        "note": instance.note,
        "metadata": instance.metadata,
        "phone": connection.phone,
        "userName": connection.user_name,
        "open": connection.state == "open",
        "pairedAt": connection.paired_at,
    }


def _ninth_digit_variant(jid: str) -> str | None:
    user, _, server = jid.partition("@")
    if f"@{server}" != PHONE_SERVER or not user.startswith("55"):
        return None
    if len(user) == 13 and user[4] == "9":
        return f"{user[:4]}{user[5:]}{PHONE_SERVER}"
    if len(user) == 12 and user[4] in "6789":
        return f"{user[:4]}9{user[4:]}{PHONE_SERVER}"
    return None
