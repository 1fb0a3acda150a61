"""The official broker's words for the state of a session, in ours (spec/broker.md section 3). Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from whatsapp.adapters import LineState, SessionState
from whatsapp.addresses import read_phone
from whatsapp.normalizers.values import as_dict, as_flag, as_id, as_int, as_text

_WORDS: dict[str, LineState] = {
    "open": "connected",
    "connected": "connected",
    "connecting": "connecting",
    "qr_timeout": "expired",
    "close": "closed",
    "closed": "closed",
    "disconnected": "closed",
}


_YEAR_9999 = 253_370_764_800_000  # milliseconds; what is later is no time


def connection_of(data: Any) -> LineState | None:
    """What an answer says of a connection; None when it says nothing: `status` alone may be that of a message."""
    fields = as_dict(data)
    word = as_text(fields.get("connectionState")) or as_text(fields.get("connection"))
    if word is not None:
        state = _WORDS.get(word.lower(), "closed")
        return "qrcode" if state == "connecting" and as_flag(fields.get("hasLastQr")) else state
    connected = fields.get("connected")
    if type(connected) is bool:
        return "connected" if connected else "closed"
    return None


_KEPT = (
    "name",
    "connectionState",
    "connectionUpdatedAt",
    "connectionStateDetail",
    "user",
    "counters",
    "network",
    "pairedAt",
)


def read_snapshot(instance: str, data: Any) -> SessionState | None:
    """Read a snapshot, or a summary of the list; None when it says nothing of the connection."""
    state = connection_of(data)
    if state is None:
        return None
    fields = as_dict(data)
    user, detail = as_dict(fields.get("user")), as_dict(fields.get("connectionStateDetail"))
    address = as_id(user.get("id"))
    expires, rate = as_int(fields.get("qrExpiresAt")), as_dict(fields.get("rate"))
    most, window = as_int(rate.get("limit")), as_int(rate.get("windowMs"))
    return SessionState(
        instance,
        state,
        phone=read_phone(address),
        address=address,
        profile_name=as_text(user.get("name")),
        close_code=as_int(detail.get("statusCode")),
        logged_out=as_flag(detail.get("isLoggedOut")),
        qr_version=as_int(fields.get("qrVersion")) or 0,
        qr_expires_at=datetime.fromtimestamp(expires / 1000, UTC) if expires and 0 < expires < _YEAR_9999 else None,
        risk_paused=as_flag(as_dict(fields["risk"]).get("paused")) if "risk" in fields else None,
        rate={"max": most, "windowMs": window} if most and window and most > 0 < window else None,
        info={name: fields[name] for name in _KEPT if name in fields},
    )
