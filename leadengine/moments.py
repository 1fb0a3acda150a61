"""How moments stand on the wire."""

from __future__ import annotations

from datetime import datetime


def iso(value: datetime | None) -> str | None:
    """A moment as the wire shows it: ISO 8601, UTC as Z."""
    return value.isoformat().replace("+00:00", "Z") if value else None
