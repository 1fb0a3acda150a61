"""TurboZap's routes of keys: `/api/user/apikeys`."""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar
from uuid import UUID

from django.db.models import QuerySet
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from pydantic import AwareDatetime, Field
from rest_framework import status
from rest_framework.request import Request
from rest_framework.response import Response

from leadengine.accounts.models import ApiKey
from leadengine.accounts.permissions import PERMISSIONS, Role
from leadengine.accounts.services import issue_api_key, revoke_api_key
from leadengine.errors import NotFound, ValidationFailed
from tickets.services.shapes import iso
from whatsapp.api.turbozap_base import SnakeBody, TurboZapEnvelope, said


class KeyBody(SnakeBody):
    """Without `permissions` the key may do what its maker may."""

    name: str = Field(min_length=1, max_length=80)
    permissions: list[str] = Field(default=[], max_length=40)
    expires_at: AwareDatetime | None = Field(None, strict=False)


@extend_schema(exclude=True)
class KeyAPIView(TurboZapEnvelope):
    permissions: ClassVar = {"POST": "keys:write", "DELETE": "keys:write"}

    def keys(self) -> QuerySet[ApiKey]:
        """The caller's keys that still work; what a login gave is none of them."""
        assert self.tenant_id is not None, "keys have a tenant"  # noqa: S101 - narrows the type
        rows = ApiKey.objects.filter(owner=self.user, tenant_id=self.tenant_id, revoked_at__isnull=True)
        return rows.exclude(kind=ApiKey.Kind.LOGIN)


class KeyListView(KeyAPIView):
    def get(self, request: Request) -> Response:
        """The caller's keys, the newest first."""
        return said([_key(key) for key in self.keys().order_by("-created_at", "-id")])

    def post(self, request: Request) -> Response:
        """Make a key. It never may more than the key or the person that makes it."""
        body = self.read_body(KeyBody)
        assert self.tenant_id is not None, "keys have a tenant"  # noqa: S101 - narrows the type
        wanted = body.permissions or (self.api_key.scopes if self.api_key is not None else [])
        known = [name for name in PERMISSIONS[Role(self.user.role)] if self.may(name)]
        if unknown := sorted(set(wanted) - set(known)):
            raise ValidationFailed([{"field": "permissions", "message": f"Não permitido: {', '.join(unknown)}."}])
        _check_end(body.expires_at, timezone.now())
        text, key = issue_api_key(
            owner=self.user, tenant_id=self.tenant_id, name=body.name, scopes=wanted, expires_at=body.expires_at
        )
        return said(_key(key) | {"key": text}, code=status.HTTP_201_CREATED)


class KeyView(KeyAPIView):
    def delete(self, request: Request, key_id: UUID) -> Response:
        """Revoke a key."""
        key = self.keys().filter(pk=key_id).first()
        if key is None:
            raise NotFound("Chave não encontrada.")
        revoke_api_key(actor=self.user, key=key, now=timezone.now())
        return said(message="API key revoked")


def _check_end(expires_at: datetime | None, now: datetime) -> None:
    if expires_at is not None and expires_at <= now:
        raise ValidationFailed([{"field": "expires_at", "message": "Deve estar no futuro."}])


def _key(key: ApiKey) -> dict[str, Any]:
    return {
        "id": str(key.pk),
        "name": key.name,
        "prefix": key.prefix,
        "permissions": sorted(key.scopes),
        "expires_at": iso(key.expires_at),
        "last_used_at": iso(key.last_used_at),
    }
