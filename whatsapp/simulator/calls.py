"""The bodies of the control API, validated: a key that is not known is an error that names it."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, TypeAdapter

from whatsapp.simulator.behaviours import Status, WireModel


class OpenCall(WireModel):
    """A scan: by which phone, shown under which name."""

    phone: str | None = None
    name: str | None = None


class CloseCall(WireModel):
    """A lost link."""

    status_code: int


class InboundMedia(WireModel):
    """A file that a customer sends."""

    type: str
    base64: str
    mimetype: str | None = None
    file_name: str | None = None
    ptt: bool = False


class QuotedMessage(WireModel):
    """The message that is answered; `id` alone is enough for one that the instance knows."""

    id: str
    text: str | None = None
    participant: str | None = None


class GroupName(WireModel):
    """A group with its subject."""

    id: str
    subject: str


class Inbound(WireModel):
    """One message from a phone; `message` is raw content and wins over text and media."""

    sender: str = Field(alias="from")
    id: str | None = None
    text: str | None = None
    push_name: str | None = None
    timestamp: float | None = None
    lid: str | None = None
    group: str | GroupName | None = None
    from_me: bool = False
    caption: str | None = None
    media: InboundMedia | None = None
    quoted: str | QuotedMessage | None = None
    message: dict[str, Any] | None = None
    stub: str | None = None
    upsert_type: str = "notify"


class AckCall(WireModel):
    """The status of a message; `to` is needed only for an id that the instance does not know."""

    id: str
    status: Status
    to: str | None = None


class VoteCall(WireModel):
    """A vote; no options take it back."""

    poll_id: str
    voter: str
    options: list[str]
    push_name: str | None = None


class ReactCall(WireModel):
    """A reaction; an empty text takes it back. `from` is needed in a group."""

    id: str
    text: str
    sender: str | None = Field(default=None, alias="from")
    push_name: str | None = None


class ChangeCall(WireModel):
    """An edit (with text) or a revoke (without) of a message by its author; `from` names another person."""

    id: str
    text: str | None = None
    sender: str | None = Field(default=None, alias="from")


class EmitCall(WireModel):
    """Any webhook."""

    event: str
    payload: dict[str, Any]


INBOUND = TypeAdapter(Annotated[list[Inbound], Field(min_length=1)])
