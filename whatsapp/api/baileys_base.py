"""What the routes of /api/baileys-simple share: `{success, data}`, bodies that may hold more, and who may call without
a key (spec/sessions.md section 7)."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address
from typing import Any, TypeVar

from django.conf import settings
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.utils import extend_schema
from pydantic import BaseModel, ConfigDict, create_model
from pydantic.alias_generators import to_camel
from rest_framework import status
from rest_framework.authentication import BaseAuthentication
from rest_framework.request import Request
from rest_framework.response import Response

from leadengine.accounts.api import Body
from leadengine.accounts.api.schema import Refused, Shape
from leadengine.accounts.authentication import CookieAuthentication, TokenAuthentication
from leadengine.accounts.models import User
from whatsapp.api.base import KEY_SENTENCES, SessionAPIView

Handler = TypeVar("Handler", bound=Callable[..., Any])
# A call that holds one of these brought a key, came through a proxy, or was made by a page in a browser.
_NOT_KEYLESS = (
    "X-Api-Key", "Authorization", "Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-Ip",
    "Via", "Origin", "Referer", "Sec-Fetch-Site",
)  # fmt: skip


class DevOwner(BaseAuthentication):
    """BAILEYS_SIMPLE_DEV_OWNER for calls without a key from this machine. The settings refuse it in production."""

    def authenticate(self, request: Request) -> tuple[User, None] | None:
        if not settings.BAILEYS_SIMPLE_DEV_OWNER or any(name in request.headers for name in _NOT_KEYLESS):
            return None
        if not _is_loopback(str(request.META.get("REMOTE_ADDR") or "")):
            return None
        owners = User.objects.select_related("tenant").filter(email=settings.BAILEYS_SIMPLE_DEV_OWNER.lower())
        owner = owners.filter(is_active=True).first()
        return (owner, None) if owner is not None else None


class DevOwnerScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    """Not described: nobody should build on it."""

    target_class = "whatsapp.api.baileys_base.DevOwner"
    name = []

    def get_security_definition(self, auto_schema: AutoSchema) -> list[dict[str, Any]]:
        return []

    def get_security_requirement(self, auto_schema: AutoSchema) -> list[dict[str, list[Any]]]:
        return []


class SimpleBody(Body):
    """What it does not know it ignores: clients of the service that these routes stand for send more."""

    model_config = ConfigDict(extra="ignore", alias_generator=to_camel, allow_inf_nan=False)


class BaileysView(SessionAPIView):
    """A route of the compatibility surface; its refusals are in the one error envelope."""

    authentication_classes = (TokenAuthentication, CookieAuthentication, DevOwner)

    def handle_exception(self, exc: Exception) -> Response:
        response = super().handle_exception(exc)
        if sentence := KEY_SENTENCES.get(type(exc)):
            response.data["error"]["message"] = sentence
        return response


def said(data: Any = None, *, message: str = "", code: int = status.HTTP_200_OK, **more: Any) -> Response:
    """`{"success": true, "message"?, "data"?}`."""
    shown = {"success": True, **({"message": message} if message else {}), **more}
    return Response(shown if data is None else {**shown, "data": data}, status=code)


def describe_simple(
    shape: type[Shape], *, many: bool = False, message: bool = False, body: type[BaseModel] | None = None,
    code: int = status.HTTP_200_OK,
) -> Callable[[Handler], Handler]:  # fmt: skip
    """Describe a handler that answers `said(data, message=…)`."""
    data: Any = list[shape] if many else shape  # type: ignore[valid-type]
    fields: dict[str, Any] = {"success": (bool, ...), "data": (data, ...)}
    if message:
        fields |= {"message": (str, ...), "pending": (bool, ...)}
    kind = "Done" if message else "List" if many else "Said"
    name = f"{shape.__name__.removesuffix('Shape')}{kind}"
    return extend_schema(
        request=body, responses={"default": Refused, code: create_model(name, __base__=Shape, **fields)}
    )


def _is_loopback(address: str) -> bool:
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return False
