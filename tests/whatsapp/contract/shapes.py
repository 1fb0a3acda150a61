"""Names and types of the fields of an answer, written down as data."""

from __future__ import annotations

import re
from typing import Any

NUMBER = (int, float)
TEXT_OR_NULL = (str, None)
MILLIS_OR_NULL = (int, None)

METADATA = {"note": str, "createdAt": str, "updatedAt": str, "revisions": list}
COUNTERS = {"sent": int, "received": int, "failed": int, "byType": dict, "statusCounts": dict}
RATE = {"limit": int, "windowMs": int, "inWindow": int, "usage": NUMBER}
RISK = {
    "threshold": NUMBER, "interleaveEvery": int, "safeContacts": [str], "paused": bool, "ratio": NUMBER,
    "unknown": int, "known": int, "replies": int,
}  # fmt: skip
USER = {"id": re.compile(r"\d+:\d+@s\.whatsapp\.net"), "name": TEXT_OR_NULL}
STATES = re.compile("open|connecting|qr_timeout|close")
SUMMARY = {
    "id": str, "name": str, "note": str, "metadata": METADATA, "connected": bool, "connectionState": STATES,
    "connectionUpdatedAt": MILLIS_OR_NULL, "user": (USER, None), "counters": COUNTERS, "rate": RATE, "network": dict,
    "risk": RISK, "queue": dict, "pairedAt": MILLIS_OR_NULL,
}  # fmt: skip
DETAIL = {"statusCode": int, "reason": TEXT_OR_NULL, "isLoggedOut": bool, "isTimedOut": bool}
SNAPSHOT = SUMMARY | {
    "connectionStateDetail": (DETAIL, None), "qrVersion": int, "hasLastQr": bool, "qrReceivedAt": MILLIS_OR_NULL,
    "qrExpiresAt": MILLIS_OR_NULL, "pairingAttempts": int, "lastError": TEXT_OR_NULL, "last": dict,
}  # fmt: skip
DELIVERY = {
    "state": re.compile("pending|retry|success|failed"), "attempts": int, "lastAttemptAt": MILLIS_OR_NULL,
    "lastStatus": (int, None), "lastError": TEXT_OR_NULL,
}  # fmt: skip
EVENT = {
    "id": str, "sequence": int, "instanceId": str, "direction": re.compile("inbound|outbound|system"), "type": str,
    "payload": dict, "createdAt": int, "acknowledged": bool, "delivery": (DELIVERY, None),
}  # fmt: skip


def misfits(value: Any, shape: Any, *, exact: bool, path: str = "$") -> list[str]:
    """What of a value is not as its shape says; empty when it fits.

    A shape is a type, None, a pattern that a text matches as a whole, a tuple of shapes of which one fits, a list with
    the shape of its entries, or a dict with the shapes of its keys. With `exact` a key more is a misfit, too.
    """
    if isinstance(shape, tuple):
        tried = [misfits(value, one, exact=exact, path=path) for one in shape]
        return min(tried, key=len)
    if isinstance(shape, dict) and isinstance(value, dict):
        found = [f"{path}.{key} is missing" for key in shape.keys() - value.keys()]
        found += [f"{path}.{key} is unknown" for key in value.keys() - shape.keys() if exact]
        for key in shape.keys() & value.keys():
            found += misfits(value[key], shape[key], exact=exact, path=f"{path}.{key}")
        return found
    if isinstance(shape, list) and isinstance(value, list):
        entries = enumerate(value)
        return [one for i, item in entries for one in misfits(item, shape[0], exact=exact, path=f"{path}[{i}]")]
    if isinstance(shape, re.Pattern):
        fits = isinstance(value, str) and shape.fullmatch(value) is not None
    elif isinstance(shape, type):
        fits = isinstance(value, shape) and (shape is bool) == isinstance(value, bool)
    else:
        fits = shape is None and value is None
    return [] if fits else [f"{path} is {value!r}, not {shape}"]
