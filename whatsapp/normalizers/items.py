"""The results that become rows, and the canonical event printed with them (spec/inbound.md 4, 6, 8)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from whatsapp.normalizers.content import content_metadata
from whatsapp.normalizers.values import iso
from whatsapp.schemas import Address, InboundMessage, OutboundEcho, PollVote

if TYPE_CHECKING:
    from datetime import datetime

    from whatsapp.normalizers.parties import Party
    from whatsapp.schemas import Content, Origin


class Frame(NamedTuple):
    """What is known of a message before its content is read."""

    instance_id: str
    external_id: str
    party: Party
    inbound: bool
    sent_at: datetime
    original: Any

    def effect(self) -> dict[str, Any]:
        """Give the fields of a result that changes another message."""
        return {
            "instance_id": self.instance_id,
            "external_id": self.external_id,
            "chat": self.party.chat,
            "from_me": not self.inbound,
            "actor": self.party.actor if self.inbound else Address(),
            "sent_at": self.sent_at,
        }

    def event(self, event_id: str, message: dict[str, Any], metadata: dict[str, Any]) -> dict[str, Any]:
        """Write the canonical event."""
        timestamp = iso(self.sent_at)
        payload = {
            "instanceId": self.instance_id,
            "timestamp": timestamp,
            "contact": self.party.contact,
            "message": message,
            "metadata": metadata,
        }
        return {
            "id": event_id,
            "type": "MESSAGE_INBOUND" if self.inbound else "MESSAGE_OUTBOUND",
            "instanceId": self.instance_id,
            "timestamp": timestamp,
            "payload": payload,
        }

    def item(
        self,
        content: Content,
        *,
        origin: Origin,
        reason: str,
        cause: str | None = None,
        metadata: dict[str, Any],
        canonical: dict[str, Any] | None,
        voter: Address | None = None,
    ) -> InboundMessage | PollVote | OutboundEcho:
        """Make the result: an echo when it is ours, a vote or a message when it is a customer's.

        metadata: that of the canonical event. voter: of a vote, when it is not the one who acts in the party.
        """
        party = self.party
        fields: dict[str, Any] = {
            "instance_id": self.instance_id,
            "external_id": self.external_id,
            "chat": party.chat,
            "address": party.address,
            "is_group": party.is_group,
            "content": content,
            "sent_at": self.sent_at,
            "sent_at_original": self.original,
            "origin": origin,
            "reason": reason,
            "cause": cause,
            "broker_metadata": metadata.get("broker") or {},
            "metadata": self._stored_metadata(metadata, content),
            "canonical": canonical,
        }
        if not self.inbound:
            return OutboundEcho(**fields)
        if content.type != "POLL_VOTE":
            return InboundMessage(**fields, **party.fields())
        poll = content.poll or {}
        return PollVote(
            **fields,
            **party.fields(),
            poll_external_id=poll.get("id"),
            voter=voter or party.actor,
            options=poll.get("options"),
            question=poll.get("question"),
            totals=poll.get("totals"),
            vote=poll.get("vote"),
        )

    def _stored_metadata(self, metadata: dict[str, Any], content: Content) -> dict[str, Any]:
        stored = {key: value for key, value in metadata.items() if value is not None and key != "broker"}
        stored.update(content_metadata(content))
        if self.original is not None:
            stored["brokerMessageTimestamp"] = self.original
        stored["normalizedTimestamp"] = iso(self.sent_at)
        return stored
