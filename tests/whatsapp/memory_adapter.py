"""A second broker in a few lines, with a wire of its own: it proves that nothing above the adapter knows the first."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar, Literal

from whatsapp.adapters import Group, LineState, Listed, Outgoing, QrCode, Reached, Sent, SessionState
from whatsapp.addresses import build_address, chat_of
from whatsapp.broker_errors import BrokerError, InstanceNotFound, UnsupportedOperation
from whatsapp.schemas import Content, Edit, Ignored, InboundMessage, Item, OutboundEcho, Reaction, Revoke, StatusUpdate

NAME = "tests.whatsapp.memory_adapter.MemoryAdapter"


class MemoryAdapter:
    """whatsapp.adapters.Adapter in memory. `sent` is what left, `listed` what can be pulled, `fails` the next send."""

    capabilities: Mapping[str, Any] = {
        "types": ["text", "image"], "mediaMaxBytes": {"image": 1000}, "groupsRead": True, "groupsSend": True,
        "lidRecipients": True, "exists": False, "pullEvents": True, "countries": [], "idempotent": True,
    }  # fmt: skip
    sent: ClassVar[list[Outgoing]] = []
    listed: ClassVar[dict[str, dict[str, Any]]] = {}
    lines: ClassVar[dict[str, SessionState]] = {}
    fails: ClassVar[list[BrokerError]] = []

    def require_configured(self) -> None:
        """It needs nothing."""

    def ensure_session(self, *, instance: str) -> str:
        self.lines.setdefault(instance, SessionState(instance, "closed"))
        return instance

    def connect(self, *, instance: str) -> Literal["qr", "pairing", "none"]:
        self.lines[instance] = SessionState(instance, "connected")
        return "none"

    def status(self, *, instance: str) -> SessionState:
        if instance not in self.lines:
            raise InstanceNotFound
        return self.lines[instance]

    def logout(self, *, instance: str) -> None:
        self.lines[instance] = SessionState(instance, "closed", logged_out=True)

    def delete(self, *, instance: str) -> None:
        self.lines.pop(instance, None)

    def list_own(self, *, instances: Collection[str]) -> list[SessionState]:
        return [state for name, state in self.lines.items() if name in instances]

    def list_all(self) -> list[SessionState]:
        return list(self.lines.values())

    def overview(self) -> dict[str, LineState]:
        return {name: state.state for name, state in self.lines.items()}

    def watch(self) -> Iterator[str]:
        return iter(())

    def qr(self, *, instance: str) -> QrCode | None:
        return QrCode(raw=f"memory:{instance}")

    def pair(self, *, instance: str, phone: str) -> str:
        return "MEMO-RY01"

    def wipe(self, *, instance: str) -> None:
        self.lines[instance] = SessionState(instance, "qrcode", logged_out=True)

    def release_risk(self, *, instance: str) -> None:
        """It has no guard."""

    def send(self, message: Outgoing) -> Sent:
        if self.fails:
            raise self.fails.pop(0)
        self.sent.append(message)
        return Sent(f"mem-{message.message_id}-{'x' * 200}", 200, "")

    def exists(self, *, instance: str, to: str) -> str | None:
        return to

    def find(self, *, instance: str, numbers: Sequence[str]) -> list[Reached]:
        return [Reached(to, to) for to in numbers]

    def groups(self, *, instance: str) -> list[Group]:
        return [Group(f"{instance}-group")]

    def metrics(self, *, instance: str, since: datetime, until: datetime) -> dict[str, Any]:
        raise UnsupportedOperation

    def pull_events(self, *, instance: str, after: str | None, now: datetime) -> Sequence[Listed]:
        later = [key for key in self.listed if after is None or key > after]
        return [Listed(key, self.listed[key], "given_up") for key in sorted(later)]

    def ack_events(self, *, instance: str, ids: Sequence[str]) -> None:
        for key in ids:
            self.listed.pop(key, None)

    def verify_webhook(self, raw: bytes, headers: Mapping[str, str]) -> bool:
        return headers.get("x-memory-digest") == hashlib.sha256(raw).hexdigest()

    def split(self, body: Any) -> list[Any]:
        return body if isinstance(body, list) else [body]

    def instance_of(self, entry: Any) -> str | None:
        return entry.get("line") if isinstance(entry, dict) else None

    def parse(self, entry: Any, *, received_at: datetime) -> list[Item]:
        if not isinstance(entry, dict) or "what" not in entry:
            return [Ignored("invalid_contract")]
        what, line, own_id, phone = entry["what"], entry["line"], entry["id"], entry.get("with")
        address = build_address(phone=phone)
        common: dict[str, Any] = {"instance_id": line, "external_id": own_id, "chat": chat_of(address)}
        if what == "ack":
            return [StatusUpdate(**common, status=entry["step"], error_code=None, source="memory", at=received_at)]
        if what in {"message", "echo"}:
            stored: dict[str, Any] = {
                **common, "address": address, "is_group": False, "content": Content("TEXT", "text", entry["says"]),
                "sent_at": received_at, "sent_at_original": None, "origin": "canonical", "broker_metadata": {},
                "metadata": {}, "canonical": None,
            }  # fmt: skip
            if what == "echo":
                return [OutboundEcho(**stored, reason="outbound_echo")]
            return [InboundMessage(**stored, reason="ok", name=entry.get("name"))]
        change: dict[str, Any] = {
            **common, "target_external_id": entry["of"], "from_me": False, "actor": address, "sent_at": received_at,
        }  # fmt: skip
        if what == "reaction":
            return [Reaction(**change, reason="reaction", emoji=entry["says"])]
        if what == "edit":
            return [Edit(**change, reason="ok", content=Content("TEXT", "text", entry["says"]))]
        return [Revoke(**change, reason="ok")]
