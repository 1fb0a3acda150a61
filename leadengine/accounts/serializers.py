"""How people look from outside. Fields are always listed: no hash, token or key can slip in."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from leadengine.accounts.api.schema import Shape
from leadengine.accounts.models import User
from leadengine.accounts.permissions import PERMISSIONS, Role


class TenantShape(Shape):
    id: UUID
    slug: str
    name: str
    timezone: str
    locale: str


class MeShape(Shape):
    id: UUID
    email: str
    name: str
    role: str
    is_superuser: bool
    tenant: TenantShape | None
    availability: str
    capacity: int
    locale: str
    preferences: dict[str, Any]
    permissions: list[str]


class TokenShape(Shape):
    access_token: str
    expires_in: int  # seconds


class LoginShape(Shape):
    token: TokenShape
    user: MeShape


class UserShape(Shape):
    """Agents get id, name and availability; the rest needs users:read."""

    id: UUID
    name: str
    availability: str
    email: str | None = None
    role: str | None = None
    is_active: bool | None = None
    capacity: int | None = None
    created_at: datetime | None = None


def me_json(user: User) -> dict[str, Any]:
    """The caller themselves, with what they may do."""
    tenant = user.tenant
    return {
        "id": str(user.pk),
        "email": user.email,
        "name": user.name,
        "role": user.role,
        "isSuperuser": user.is_superuser,
        "tenant": {
            "id": str(tenant.pk),
            "slug": tenant.slug,
            "name": tenant.name,
            "timezone": tenant.timezone,
            "locale": tenant.locale,
        }
        if tenant
        else None,
        "availability": user.availability,
        "capacity": user.capacity,
        "locale": user.locale,
        "preferences": user.preferences,
        "permissions": sorted(PERMISSIONS[Role(user.role)]),
    }


def user_json(user: User, *, full: bool) -> dict[str, Any]:
    """A member of the tenant; `full` for those with users:read."""
    shown: dict[str, Any] = {"id": str(user.pk), "name": user.name, "availability": user.availability}
    if full:
        shown |= {
            "email": user.email,
            "role": user.role,
            "isActive": user.is_active,
            "capacity": user.capacity,
            "createdAt": user.created_at.isoformat().replace("+00:00", "Z"),
        }
    return shown
