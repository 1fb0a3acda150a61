"""What a channel does for tickets, and what may become of a send (spec/outbound.md section 8).

The channels stand above this app: settings.TICKETS_TRANSPORTS names them by dotted path, as EMAIL_BACKEND does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from typing import Any, Protocol
from uuid import UUID

from django.conf import settings
from django.utils.module_loading import import_string

from leadengine.accounts.models import User

Identity = tuple[str, str]  # (kind, value) of a ContactIdentity


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a line can do; doors and composer ask this, never for the name of a broker (spec/broker.md section 9).

    `types` are payload types in lower case, `media_max_bytes` is by type, `countries` are calling codes (none: all).
    """

    types: frozenset[str]
    media_max_bytes: Mapping[str, int]
    groups_send: bool
    lid_recipients: bool
    exists: bool
    countries: tuple[str, ...]
    rate: tuple[int, float] | None = None  # the channel's own limit: so many sends in so many seconds


@dataclass(frozen=True, slots=True)
class Line:
    """A session as far as tickets need it.

    `name` is for metrics, `reference` is what the channel calls it, `title` is for people; `since` is when it was lost,
    `connected_at` when it connected last.
    """

    id: UUID
    tenant_id: UUID
    name: str
    reference: str
    status: str
    connected: bool
    default_queue_id: UUID | None
    replaced_by: UUID | None
    capabilities: Capabilities
    title: str = ""
    since: datetime | None = None
    connected_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class KeptFile:
    """A file that the channel keeps, by its id there. `source` is what it finds it by, opaque to this app."""

    id: UUID
    media_type: str  # image, video, audio, document
    mime_type: str
    file_name: str
    size: int
    sha256: str
    storage_key: str
    source: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class SendOrder:
    """One message to send. `payload` is what the door accepted (tickets/payloads.py), `attempt_id` names this try.

    `identities` are those of the contact; the channel chooses the address. `reference` is the caller's id, else ours.
    `file` is MessageMedia.source: `{"url": …}` as a caller gave it, or the channel's own of a KeptFile.
    """

    message_id: UUID
    attempt_id: UUID
    line: Line
    identities: Sequence[Identity]
    is_group: bool
    payload: Mapping[str, Any]
    file: Mapping[str, Any] | None
    reference: str


@dataclass(frozen=True, slots=True)
class Sent:
    """The channel accepted. `external_id` may still be unknown; `learned` are addresses it told of the contact."""

    external_id: str | None
    status: int
    answer: str
    learned: tuple[Identity, ...] = ()


@dataclass
class SendFailure(Exception):
    """A send that did not succeed. `message` is for people; `answer` is what the channel said, without keys."""

    code: str
    message: str
    status: int | None = None
    answer: str = ""

    def __post_init__(self) -> None:
        super().__init__(self.code)


class NotSent(SendFailure):
    """Proved not to have left."""


class LineOffline(NotSent):
    """The session is not connected, or not there: the message waits for it. Not an attempt."""


@dataclass
class RateLimited(NotSent):
    """The channel wants a pause. Not an attempt."""

    retry_after: float = field(default=15, kw_only=True)  # seconds


class OperatorNeeded(NotSent):
    """Held until a supervisor releases the session. Not an attempt."""


class Retryable(NotSent):
    """The channel could not be reached, or did not accept our key: tried again later."""


@dataclass
class Refused(NotSent):
    """Ended: this message will never be accepted. `external_id` where the channel named it all the same."""

    external_id: str | None = field(default=None, kw_only=True)


class OutcomeUnknown(SendFailure):
    """It may have left: never sent again by the system."""


class Transport(Protocol):
    """A channel. Only `send` reaches out; all else runs in the caller's scope and transaction."""

    def require_configured(self) -> None:
        """Raises: NotConfigured naming what is missing."""

    def line(self, reference: UUID | str) -> Line | None:
        """A session of the scope's tenant by our id, or by a name that the channel knows it by; None when unknown."""

    def capabilities(self, session_id: UUID) -> Capabilities:
        """What a session can do; the channel's own where the session is unknown."""

    def check_recipient(self, *, line: Line, identities: Sequence[Identity], is_group: bool) -> None:
        """Raises: a DomainError with status 400 or 422 when the line cannot reach the contact."""

    def take_file(self, *, tenant_id: UUID, file_id: UUID, author: User | None, line: Line, now: datetime) -> KeptFile:
        """An uploaded file for a message that is being accepted, in this transaction: from now on it hangs on it.

        `author` None is the system. Raises: NotFound for an unknown one and one that is not the author's to send, and
        DomainErrors with 410 (gone), 413 (over the line's limit).
        """

    def require_file(self, *, tenant_id: UUID, source: Mapping[str, Any], now: datetime) -> None:
        """Before a message is sent again. Raises: a DomainError with 410 when its file is gone."""

    def send(self, order: SendOrder) -> Sent:
        """Send now. No transaction may be open. Raises: SendFailure."""

    def bound(self, *, tenant_id: UUID, session_id: UUID, external_id: str, now: datetime) -> None:
        """A message got its id, in this transaction: apply what came for it too early."""

    def held(self, *, tenant_id: UUID, session_id: UUID, now: datetime) -> None:
        """The channel refuses until an operator acts: flag the session and tell supervisors."""

    def circuit_changed(self, *, tenant_id: UUID, session_id: UUID, now: datetime) -> None:
        """The session's breaker opened, lets a probe pass, or closed: tell it once this transaction is committed."""

    def ticket_changed(self, *, tenant_id: UUID, ticket_id: UUID, now: datetime) -> None:
        """A ticket changed, in this transaction: what the channel keeps of it follows."""

    def queue_available(self, *, tenant_id: UUID, now: datetime) -> None:
        """A queue was created or activated: what waited for one is due."""


@cache
def get_transport(channel: str) -> Transport:
    """The transport of a channel such as `WHATSAPP`."""
    transport: Transport = import_string(settings.TICKETS_TRANSPORTS[channel])()
    return transport
