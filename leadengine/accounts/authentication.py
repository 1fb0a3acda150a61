"""How the REST API knows its caller: a key or token in a header, or the browser's session cookie."""

from __future__ import annotations

import base64
from typing import Any

from django.contrib.auth.models import AnonymousUser
from rest_framework.authentication import BaseAuthentication, SessionAuthentication
from rest_framework.exceptions import APIException, AuthenticationFailed
from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from leadengine.accounts.models import ApiKey, User
from leadengine.accounts.operator_key import find_operator, is_operator_key
from leadengine.accounts.services import find_key_owner
from leadengine.limiting import count_in_minute

OPERATOR = "operator"
_WRONG_KEYS = 30  # a minute and address, then 429


class TooManyWrongKeys(APIException):
    """An address that tries keys. A right key is let in all the same: others may be behind the same address."""

    status_code = 429
    default_detail = "Muitas chaves inválidas. Aguarde um minuto."

    def __init__(self, wait: int) -> None:
        self.wait = wait
        super().__init__()


class TokenAuthentication(BaseAuthentication):
    """`X-API-Key: <key>` or `Authorization: Bearer <key>`: the operator's key, else one that is stored."""

    def authenticate(self, request: Request) -> tuple[User, ApiKey] | None:
        key = token_of(request.headers.get("X-API-Key"), request.headers.get("Authorization"))
        if key is None:
            return None
        found = find_operator(key=key) or find_key_owner(key=key)
        if found is None:
            raise refuse_key(request)
        return found

    def authenticate_header(self, request: Request) -> str:
        return "Bearer"


class OperatorAuthentication(BaseAuthentication):
    """`X-API-Key: <key>`, or any name with the key as its password (Basic): API_KEY, and no other."""

    def authenticate(self, request: Request) -> tuple[AnonymousUser, str] | None:
        key = (request.headers.get("X-API-Key") or "").strip() or password_of(request.headers.get("Authorization"))
        if key is None:
            return None
        if not is_operator_key(key):
            raise refuse_key(request)
        return AnonymousUser(), OPERATOR

    def authenticate_header(self, request: Request) -> str:
        return 'Basic realm="LeadEngine"'


class IsOperator(BasePermission):
    """Whoever OperatorAuthentication has let in."""

    def has_permission(self, request: Request, view: Any) -> bool:
        return bool(request.auth == OPERATOR)


class CookieAuthentication(SessionAuthentication):
    """The browser's session, with CSRF."""


def refuse_key(request: Request) -> APIException:
    """What to raise for a wrong key: 401, or 429 once its address has sent too many."""
    wait = count_in_minute("api:refused", str(request.META.get("REMOTE_ADDR") or ""), most=_WRONG_KEYS)
    return TooManyWrongKeys(wait) if wait else AuthenticationFailed("Chave inválida ou vencida.")


def password_of(authorization: str | None) -> str | None:
    """The password of a Basic header; None when it is none."""
    scheme, _, value = (authorization or "").strip().partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        return base64.b64decode(value.strip(), validate=True).decode().partition(":")[2]
    except ValueError:
        return ""


def token_of(api_key: str | None, authorization: str | None) -> str | None:
    """The key a caller sent: X-API-Key decides when present, else a Bearer token; None when there is neither."""
    if api_key and api_key.strip():
        return api_key.strip()
    scheme, _, value = (authorization or "").strip().partition(" ")
    return value.strip() if scheme.lower() == "bearer" and value.strip() else None
