"""The seam to brokers (spec/broker.md section 9): what every adapter offers, and which one is in use.

A second broker is one new module beside `baileys_http`, with a line in `ADAPTERS`; no other module names a broker.
Composer, API and screens ask `capabilities`, never the adapter's name.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from typing import Any, Literal, Protocol
from uuid import UUID

from django.conf import settings
from django.utils.module_loading import import_string

from whatsapp.schemas import Item

# Names for WHATSAPP_BROKER_ADAPTER; a dotted path to a class works too.
ADAPTERS = {"baileys_http": "whatsapp.adapters.baileys_http.BaileysHttp"}

# What became of the webhook of a listed event: our 2xx; its first attempt still runs; it is tried again; it was
# given up; it never had one.
Delivery = Literal["delivered", "on_its_way", "retrying", "given_up", "none"]
LineState = Literal["connected", "qrcode", "connecting", "expired", "closed"]


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One message to send, its address chosen and its type within the capabilities.

    `instance` is the broker's name of the session, `payload` what the door accepted (tickets/payloads.py),
    `reference` the caller's id, else ours; `attempt_id` names this try.
    """

    session_id: UUID
    instance: str
    to: str
    payload: Mapping[str, Any]
    media_url: str | None
    reference: str
    message_id: UUID
    attempt_id: UUID

    @property
    def type(self) -> str:
        """The payload's type, in lower case."""
        return str(self.payload["type"])


@dataclass(frozen=True, slots=True)
class Sent:
    """The broker accepted: the id of the message where it named one, its HTTP status, its answer without keys."""

    external_id: str | None
    status: int
    answer: str


@dataclass(frozen=True, slots=True)
class SessionState:
    """A session as its broker sees it now. `close_code` is why a lost link was lost; times are aware UTC.

    `risk_paused` and `rate` are None where the broker does not say; `info` is what is kept of its words, without QR
    codes and keys.
    """

    instance: str
    state: LineState
    phone: str | None = None  # E.164
    address: str | None = None  # as the broker writes it
    profile_name: str | None = None
    close_code: int | None = None
    logged_out: bool = False
    qr_version: int = 0
    qr_expires_at: datetime | None = None
    risk_paused: bool | None = None
    rate: Mapping[str, int] | None = None  # capabilities.rate as the broker keeps it for this session
    info: Mapping[str, Any] = field(default_factory=dict)

    @property
    def connected(self) -> bool:
        """Whether messages can pass."""
        return self.state == "connected"


@dataclass(frozen=True, slots=True)
class QrCode:
    """What a person scans: a PNG, or the string that one is drawn from, whichever the broker gives."""

    picture: bytes | None = None
    raw: str | None = None


@dataclass(frozen=True, slots=True)
class Listed:
    """One event of a broker's list. `entry` is what its webhook would have brought; None: nothing for us."""

    id: str
    entry: dict[str, Any] | None
    delivery: Delivery


@dataclass(frozen=True, slots=True)
class Reached:
    """Who answers for a number: the address to write to, and how the broker names it. Both None: nobody does."""

    to: str
    address: str | None = None
    jid: str | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """A group that a session is in; a broker may not know its subject."""

    id: str
    subject: str | None = None


class Adapter(Protocol):
    """A broker. Calls raise one typed error of `whatsapp.broker_errors` and must not run inside a transaction.

    Below it everything has the broker's words: scales of acks, signatures, states, ids (up to 255 long).
    """

    capabilities: Mapping[str, Any]

    def require_configured(self) -> None:
        """Raises: NotConfigured naming the variables that are missing."""

    # Sessions.
    def ensure_session(self, *, instance: str) -> str:
        """Create a session at the broker under this name, or adopt our own that an earlier answer lost; its name."""

    def connect(self, *, instance: str) -> Literal["qr", "pairing", "none"]:
        """Start connecting; what a person has to do: scan, enter a code, or nothing. Raises: BrokerError."""

    def status(self, *, instance: str) -> SessionState:
        """How the session is now. Raises: BrokerError."""

    def logout(self, *, instance: str) -> None:
        """Log out; a session that is offline or gone is logged out already. Raises: BrokerError."""

    def delete(self, *, instance: str) -> None:
        """Remove the session; one that is gone is removed already. Raises: BrokerError."""

    def list_own(self, *, instances: Collection[str]) -> list[SessionState]:
        """The sessions among those that we created that the broker has. Raises: BrokerError."""

    def list_all(self) -> list[SessionState]:
        """Every session that the broker has, whoever created it: for superusers. Raises: BrokerError."""

    def overview(self) -> dict[str, LineState]:
        """The state of every session in one cheap call; `status` tells the rest of one. Raises: BrokerError."""

    def watch(self) -> Iterator[str]:
        """The names of sessions as something happens to them, and an empty one now and then as a sign of life, until
        the stream ends. Raises: BrokerError."""

    def qr(self, *, instance: str) -> QrCode | None:
        """What is to be scanned now; None when there is nothing. Starts a stopped socket. Raises: BrokerError."""

    def pair(self, *, instance: str, phone: str) -> str:
        """A code to type on the phone (E.164). Only with the capability `pairingCode`. Raises: BrokerError."""

    def wipe(self, *, instance: str) -> None:
        """Forget the pairing and begin again with a new QR code, soon after the answer. Raises: BrokerError."""

    def release_risk(self, *, instance: str) -> None:
        """Lift the broker's pause for strangers. Only with the capability `risk`. Raises: BrokerError."""

    # Messages.
    def send(self, message: Outgoing) -> Sent:
        """Send now. Raises: BrokerError; `unknown` ones may have sent it all the same."""

    def exists(self, *, instance: str, to: str) -> str | None:
        """The address that answers for a number, None when nobody does. Only with the capability `exists`."""

    # Questions that callers ask through us (spec/outbound.md section 11).
    def find(self, *, instance: str, numbers: Sequence[str]) -> list[Reached]:
        """Who answers for each number, in their order. Only with the capability `exists`. Raises: BrokerError."""

    def groups(self, *, instance: str) -> list[Group]:
        """The groups that a session is in. Only with the capability `groupsRead`. Raises: BrokerError."""

    def metrics(self, *, instance: str, since: datetime, until: datetime) -> dict[str, Any]:
        """What the broker counts of a session, in its own words and without keys. Raises: BrokerError."""

    def pull_events(self, *, instance: str, after: str | None, now: datetime) -> Sequence[Listed]:
        """A page of what the broker has listed since `after`, oldest first. Only with `pullEvents`."""

    def ack_events(self, *, instance: str, ids: Sequence[str]) -> None:
        """Let the broker forget listed events. Only with `pullEvents`."""

    # Inbound: pure.
    def verify_webhook(self, raw: bytes, headers: Mapping[str, str]) -> bool:
        """Whether the signature of a delivery is right, or absent where none is required."""

    def split(self, body: Any) -> list[Any]:
        """The entries of a webhook body, in order; each becomes one event of ours."""

    def instance_of(self, entry: Any) -> str | None:
        """The broker's name of the session that an entry is about."""

    def parse(self, entry: Any, *, received_at: datetime) -> list[Item]:
        """What an entry means. Raises nothing for any JSON value: what cannot be read is an `Ignored`."""


def get_adapter() -> Adapter:
    """The adapter of WHATSAPP_BROKER_ADAPTER."""
    return _load(settings.WHATSAPP_BROKER_ADAPTER)


@cache
def _load(name: str) -> Adapter:
    adapter: Adapter = import_string(ADAPTERS.get(name, name))()
    return adapter
