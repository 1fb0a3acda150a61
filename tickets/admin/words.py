"""What several screens share: the tones of the chips, and what none of them shows."""

from __future__ import annotations

from django.db.models import Q

# An echo that turned out to be our own message: its row stays for the ledger and is shown to nobody.
MERGED = Q(status="CANCELED", metadata__has_key="mergedInto")
TICKET = {"OPEN": "info", "ASSIGNED": "good", "PENDING": "warn", "RESOLVED": "calm", "CLOSED": "calm"}
PRIORITY = {"LOW": "calm", "NORMAL": "calm", "HIGH": "warn", "URGENT": "bad"}
MESSAGE = {
    "RECEIVED": "info", "SCHEDULED": "calm", "QUEUED": "warn", "SENDING": "warn", "UNCONFIRMED": "bad",
    "SENT": "calm", "DELIVERED": "calm", "READ": "good", "FAILED": "bad", "CANCELED": "calm",
}  # fmt: skip
ROLE = {"ADMIN": "brand", "SUPERVISOR": "info", "AGENT": "calm"}
AVAILABILITY = {"ONLINE": "good", "AWAY": "warn", "OFFLINE": "calm"}
