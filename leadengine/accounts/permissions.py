"""Roles and what each may do: the table of spec/tickets-leads.md section 1, and nothing else."""

from __future__ import annotations

from django.db import models
from django.utils.translation import gettext_lazy as _


class Role(models.TextChoices):
    ADMIN = "ADMIN", _("Administrator")
    SUPERVISOR = "SUPERVISOR", _("Supervisor")
    AGENT = "AGENT", _("Agent")


_AGENT = frozenset(
    {
        "tickets:read", "tickets:write", "messages:send", "notes:write", "uploads:write",
        "contacts:read", "contacts:write", "leads:read", "leads:write",
    }
)  # fmt: skip
_SUPERVISOR = _AGENT | {
    "tickets:assign-others", "tickets:export", "reports:read", "canned:shared", "contacts:merge", "contacts:export",
    "leads:delete", "audit:read", "sessions:read", "settings:read", "users:read",
}  # fmt: skip
_ADMIN = _SUPERVISOR | {
    "users:write", "queues:write", "settings:write", "webhooks:write", "keys:write", "contacts:delete",
    "campaigns:write",
}  # fmt: skip

PERMISSIONS: dict[Role, frozenset[str]] = {Role.ADMIN: _ADMIN, Role.SUPERVISOR: _SUPERVISOR, Role.AGENT: _AGENT}
