"""The tones of the chips, the same on every screen."""

from __future__ import annotations

TICKET = {"OPEN": "info", "ASSIGNED": "good", "PENDING": "warn", "RESOLVED": "calm", "CLOSED": "calm"}
PRIORITY = {"LOW": "calm", "NORMAL": "calm", "HIGH": "warn", "URGENT": "bad"}
MESSAGE = {
    "RECEIVED": "info", "SCHEDULED": "calm", "QUEUED": "warn", "SENDING": "warn", "UNCONFIRMED": "bad",
    "SENT": "calm", "DELIVERED": "calm", "READ": "good", "FAILED": "bad", "CANCELED": "calm",
}  # fmt: skip
ROLE = {"ADMIN": "brand", "SUPERVISOR": "info", "AGENT": "calm"}
AVAILABILITY = {"ONLINE": "good", "AWAY": "warn", "OFFLINE": "calm"}
