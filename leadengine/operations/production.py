"""What has to be right before real customers use an installation (spec/operations.md section 9): one line per item."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from leadengine.operations.models import EmergencyContact

CALLED = ("Tech Lead", "DevOps", "DBA")  # the roles that alerts and runbooks name
Level = Literal["PASS", "WARN", "FAIL"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What an item found; a FAIL must be repaired before going live."""

    item: str
    level: Level
    words: str


def examine_production() -> list[Finding]:
    """Look at every item."""
    return [Finding(name, *look()) for name, look in ITEMS.items()]


def _contacts() -> tuple[Level, str]:
    reachable = {one.role for one in EmergencyContact.objects.all() if one.email or one.phone}
    missing = [role for role in CALLED if role not in reachable]
    if missing:
        return "WARN", f"Nobody can be called as {', '.join(missing)}: fill it in at /admin/operations/."
    return "PASS", "Whoever an alert calls can be reached."


ITEMS: dict[str, Callable[[], tuple[Level, str]]] = {"emergency_contacts": _contacts}
