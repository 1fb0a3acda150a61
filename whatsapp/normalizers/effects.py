"""What changes another message: reactions, edits, revokes (spec/inbound.md section 11)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from whatsapp.normalizers.content import read_content
from whatsapp.normalizers.values import as_dict, as_id, as_int, as_label
from whatsapp.normalizers.wrappers import unwrap
from whatsapp.schemas import Edit, Reaction, Revoke

if TYPE_CHECKING:
    from whatsapp.schemas import Content

_REVOKE = 0
_MESSAGE_EDIT = 14


def read_protocol(node: Any, event: dict[str, Any]) -> Edit | Revoke | None:
    """Read a protocolMessage that revokes or edits; None for every other one. event: fields of the result."""
    protocol = as_dict(node)
    target = as_id(as_dict(protocol.get("key")).get("id"))
    word = protocol.get("type")
    if target is None:
        return None
    if word == "REVOKE" or as_int(word) == _REVOKE:
        return Revoke(target_external_id=target, **event)
    if word == "MESSAGE_EDIT" or as_int(word) == _MESSAGE_EDIT:
        content = edited_content(protocol.get("editedMessage"))
        return Edit(target_external_id=target, content=content, **event) if content else None
    return None


def edited_content(message: Any) -> Content | None:
    """Read the new content of an edited message."""
    reading = read_content(unwrap(message))
    return reading.content if reading else None


def read_reaction(node: Any, event: dict[str, Any]) -> Reaction | None:
    """Read a reactionMessage; None when it names no message. event: fields of the result."""
    reaction = as_dict(node)
    target = as_id(as_dict(reaction.get("key")).get("id"))
    if target is None:
        return None
    return Reaction(target_external_id=target, emoji=as_label(reaction.get("text")) or "", **event)
