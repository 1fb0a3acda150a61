"""How the REST API knows its caller: a key or token in a header, or the browser's session cookie."""

from __future__ import annotations

from rest_framework.authentication import BaseAuthentication, SessionAuthentication
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.request import Request

from leadengine.accounts.models import ApiKey, User
from leadengine.accounts.services import find_key_owner


class TokenAuthentication(BaseAuthentication):
    """`X-API-Key: <key>` or `Authorization: Bearer <key>`."""

    def authenticate(self, request: Request) -> tuple[User, ApiKey] | None:
        key = token_of(request.headers.get("X-API-Key"), request.headers.get("Authorization"))
        if key is None:
            return None
        found = find_key_owner(key=key)
        if found is None:
            raise AuthenticationFailed("Chave inválida ou vencida.")
        return found

    def authenticate_header(self, request: Request) -> str:
        return "Bearer"


class CookieAuthentication(SessionAuthentication):
    """The browser's session, with CSRF."""


def token_of(api_key: str | None, authorization: str | None) -> str | None:
    """The key a caller sent: X-API-Key decides when present, else a Bearer token; None when there is neither."""
    if api_key and api_key.strip():
        return api_key.strip()
    scheme, _, value = (authorization or "").strip().partition(" ")
    return value.strip() if scheme.lower() == "bearer" and value.strip() else None
