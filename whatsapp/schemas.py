"""The results of `whatsapp.normalizers`: what one event of a broker means, in our own words.

Every result has `kind` (what it is), `reason` (how it is counted when it is accepted or ignored, section 14),
`cause` (why a raw entry is no inbound message, section 5), `payload_type` (label of the metric) and `canonical`
(the event in the canonical shape of section 4, or None). Sections are those of spec/inbound.md. Strings have no
U+0000 and no lone surrogate and are at most 255 long, but for texts and addresses of files. Times are aware UTC.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    from datetime import datetime

Origin = Literal["canonical", "raw"]
RowType = Literal[
    "TEXT",
    "IMAGE",
    "VIDEO",
    "AUDIO",
    "DOCUMENT",
    "STICKER",
    "LOCATION",
    "CONTACT",
    "POLL",
    "POLL_VOTE",
    "UNKNOWN",
]


@dataclass(frozen=True, slots=True)
class Address:
    """Everything in one event that identifies one person or one group (section 7).

    phone: E.164, Brazilian mobiles with the ninth digit. wa_address: the digits WhatsApp answers to, never
    rewritten. lid: digits of the LID. jid: groups, and people on servers we know nothing of.
    """

    phone: str | None = None
    wa_address: str | None = None
    lid: str | None = None
    jid: str | None = None

    def identities(self) -> list[tuple[str, str]]:
        """Give `(kind, value)` of each identity, ready for a look-up; empty when nobody is named."""
        pairs = (
            ("phone", self.phone),
            ("wa_address", self.wa_address),
            ("lid", self.lid),
            ("jid", self.jid),
        )
        return [(kind, value) for kind, value in pairs if value is not None]


@dataclass(frozen=True, slots=True)
class Sender:
    """Who wrote a message of a group. jid: bare, None when only the phone is known."""

    name: str | None
    address: Address
    jid: str | None


@dataclass(frozen=True, slots=True)
class Media:
    """A file of a message. size in bytes, thumbnail base64 of at most 64 KB.

    source: what a download needs, of `url, directPath, mediaKey, fileSha256, fileEncSha256` (base64) those known,
    and `mediaKind`, the word of the key derivation (section 10); empty until the raw twin brings it.
    """

    media_type: Literal["image", "video", "audio", "document", "sticker"]
    mime_type: str | None = None
    file_name: str | None = None
    size: int | None = None
    seconds: int | None = None
    ptt: bool = False
    width: int | None = None
    height: int | None = None
    page_count: int | None = None
    thumbnail: str | None = None
    source: dict[str, str] = field(default_factory=dict)
    sticker: bool = False
    ptv: bool = False


@dataclass(frozen=True, slots=True)
class Quote:
    """The message that is answered. participant: bare jid of its author."""

    external_id: str
    text: str | None = None
    participant: str | None = None


@dataclass(frozen=True, slots=True)
class Content:
    """What a message says, by the table of section 5. text: the text, or the caption of a file.

    payload_type: the messageType word. location: `{latitude, longitude, name, address}`. contacts:
    `[{displayName, phones[], vcard}]`. interactive: `{type, id, title}`. poll: of a POLL `{question, options[],
    selectable, secret}`, whose secret (base64) must be encrypted before it is stored; of a vote see `PollVote`.
    flags: of viewOnce, ephemeral, skd those that are true. hollow: a canonical event that says nothing and has
    to wait for its raw twin (section 8).
    """

    type: RowType
    payload_type: str
    text: str | None = None
    media: Media | None = None
    location: dict[str, Any] | None = None
    contacts: list[dict[str, Any]] | None = None
    interactive: dict[str, str] | None = None
    quote: Quote | None = None
    poll: dict[str, Any] | None = None
    unknown_kind: str | None = None
    flags: dict[str, bool] = field(default_factory=dict)
    hollow: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stored:
    """What every result that becomes a message row has.

    chat: the conversation as one bare jid, the lock key; made from the canonical phone where one is known, so
    that twins and variants of one number meet. address: whose conversation it is (a person, or the group).
    sent_at_original: the time as the broker wrote it, None when it wrote none we can read. broker_metadata is
    for `Message.metadata.broker`, metadata for the rest of it.
    """

    instance_id: str
    external_id: str
    chat: str
    address: Address
    is_group: bool
    content: Content
    sent_at: datetime
    sent_at_original: Any
    origin: Origin
    reason: str
    cause: str | None = None
    broker_metadata: dict[str, Any]
    metadata: dict[str, Any]
    canonical: dict[str, Any] | None

    @property
    def payload_type(self) -> str:
        return self.content.payload_type


@dataclass(frozen=True, slots=True, kw_only=True)
class _FromCustomer(_Stored):
    """Adds who it is from. name, push_name, document, registrations and avatar_url describe the contact that
    `address` identifies: of a group there is only its subject, and `sender` is the person."""

    group_subject: str | None = None
    sender: Sender | None = None
    name: str | None = None
    push_name: str | None = None
    document: str | None = None
    registrations: list[str] | None = None
    avatar_url: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class InboundMessage(_FromCustomer):
    """A customer wrote."""

    kind: ClassVar[str] = "message"


@dataclass(frozen=True, slots=True, kw_only=True)
class PollVote(_FromCustomer):
    """A customer voted: POLL_CHOICE, canonical `poll_update` and raw vote of one vote share `external_id`.

    content is the POLL_VOTE row. options: the chosen texts, empty when the vote was withdrawn, None while they
    are not known (raw votes are encrypted). totals: `[{id, text, votes}]` as the broker counts. vote: as sent.
    """

    kind: ClassVar[str] = "vote"
    poll_external_id: str | None
    voter: Address
    options: list[str] | None = None
    question: str | None = None
    totals: list[dict[str, Any]] | None = None
    vote: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboundEcho(_Stored):
    """A message of ours came back (section 12). It never carries a name."""

    kind: ClassVar[str] = "echo"


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusUpdate:
    """An ack of a message of ours: status 0..5 (section 13). at: when the broker says it happened."""

    kind: ClassVar[str] = "ack"
    payload_type: ClassVar[str] = "none"
    canonical: ClassVar[None] = None
    cause: ClassVar[None] = None
    instance_id: str
    external_id: str
    chat: str | None
    status: int
    error_code: str | None
    source: str
    at: datetime
    reason: str = "ack_applied"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Effect:
    """What changes another message.

    external_id: of the message that carries the change, None for an update. actor: who did it, empty for us.
    """

    canonical: ClassVar[None] = None
    instance_id: str
    external_id: str | None
    target_external_id: str
    chat: str | None
    from_me: bool
    actor: Address
    sent_at: datetime
    reason: str
    cause: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reaction(_Effect):
    """Somebody reacted to a message; an empty emoji takes the reaction back."""

    kind: ClassVar[str] = "reaction"
    payload_type: ClassVar[str] = "reaction"
    emoji: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit(_Effect):
    """A message got a new content."""

    kind: ClassVar[str] = "edit"
    content: Content

    @property
    def payload_type(self) -> str:
        return self.content.payload_type


@dataclass(frozen=True, slots=True, kw_only=True)
class Revoke(_Effect):
    """A message was deleted for everyone."""

    kind: ClassVar[str] = "revoke"
    payload_type: ClassVar[str] = "none"


@dataclass(frozen=True, slots=True)
class Ignored:
    """Nothing to do, and why: reason of section 14, cause of section 5 for raw entries."""

    kind: ClassVar[str] = "ignored"
    canonical: ClassVar[None] = None
    reason: str
    cause: str | None = None
    instance_id: str | None = None
    external_id: str | None = None
    payload_type: str = "none"


Item = InboundMessage | OutboundEcho | StatusUpdate | PollVote | Reaction | Edit | Revoke | Ignored
