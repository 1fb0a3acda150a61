"""Takes a snapshot of the configuration in force (spec/operations.md section 8)."""

from __future__ import annotations

from typing import Any

from leadengine.operations.management.reporting import ReportCommand
from leadengine.operations.snapshots import take_snapshot


class Command(ReportCommand):
    help = (
        "Store the configuration in force as the next version, or say which version it is already. "
        "Example: manage.py config_snapshot --json"
    )

    def work(self, options: dict[str, Any]) -> Any:
        taken = take_snapshot(reason="by hand")
        return {"version": taken.version, "takenAt": taken.taken_at.isoformat(), "reason": taken.reason, **taken.data}

    def tell(self, done: Any) -> str:
        sizes = ", ".join(f"{len(done[part])} {part}" for part in ("settings", "tenants", "sessions", "queues"))
        return f"Version {done['version']} of {done['takenAt'][:19]} ({done['reason']}): {sizes}"
