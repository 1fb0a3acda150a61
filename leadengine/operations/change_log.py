"""The change log of protected files as a table: what a release brings is in it after its migrations."""

from __future__ import annotations

from typing import Any

from django.apps.registry import Apps
from django.conf import settings

from leadengine.operations.protection import LIST, read_protection


def fill_change_log(*, apps: Apps, using: str, **_: Any) -> None:
    """Bring the entries of docs/protected.toml into the table, by version; entries made in admin stay.

    Called after each `migrate`, also one that goes back to before the table.
    """
    try:
        log = apps.get_model("operations", "ProtectedChange")
    except LookupError:
        return
    if not (settings.BASE_DIR / LIST).exists():  # a deployment without its docs has what its migrations brought
        return
    for change in read_protection(settings.BASE_DIR).changes:
        values = {"date": change.date, "change": change.change, "status": change.status}
        log.objects.using(using).update_or_create(
            version=change.version, defaults={**values, "approved_by": list(change.approved_by)}
        )
