"""What belongs to the platform and to no tenant: whom to call, and the log of protected changes."""

from __future__ import annotations

from leadengine.accounts.models import User
from leadengine.accounts.scopes import service_scope
from leadengine.accounts.services import write_audit
from leadengine.operations.models import EmergencyContact, ProtectedChange


def save_contact(*, actor: User, contact: EmergencyContact) -> None:
    """Keep a contact as it was filled in."""
    _save(actor, contact, "emergency_contact.saved", contact.role)


def add_protected_change(*, actor: User, change: ProtectedChange) -> None:
    """Add a line to the change log; lines are never changed.

    It does not allow a file to change: for that, CI wants the line in docs/protected.toml (`protected_check --update`).
    """
    _save(actor, change, "protected_change.added", change.version)


def _save(actor: User, row: EmergencyContact | ProtectedChange, action: str, name: str) -> None:
    # In a scope of its own: the superuser may be looking at one tenant, to which the line of the log does not belong.
    with service_scope("a list of the platform"):
        row.save()
        write_audit(tenant_id=None, actor=actor, action=action, target=row, changes={"name": [None, name]})
