"""Who is at the other end of a socket: the browser's session with an allowed Origin, or a key in a header."""

from __future__ import annotations

from importlib import import_module
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.contrib.auth import get_user
from django.http import HttpRequest, parse_cookie
from django.utils import timezone

from leadengine.accounts.authentication import token_of
from leadengine.accounts.models import ApiKey, User
from leadengine.accounts.services import find_key_owner
from leadengine.realtime.gate import Caller

_engine = import_module(settings.SESSION_ENGINE)


def identify(scope: dict[str, Any]) -> Caller | None:
    """The caller of a handshake; None when nobody, a foreign Origin, or a person without tenant.

    A key of one connection is nobody here: the events of a socket are those of a person.
    """
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
    key = token_of(headers.get("x-api-key"), headers.get("authorization"))
    if key is not None:
        found = find_key_owner(key=key)
        return _caller(found[0], api_key_id=found[1].pk) if found and found[1].session_id is None else None
    if headers.get("origin") not in settings.REALTIME_ALLOWED_ORIGINS and not _own_origin(headers):
        return None
    request = HttpRequest()
    session_key = parse_cookie(headers.get("cookie", "")).get(settings.SESSION_COOKIE_NAME)
    request.session = _engine.SessionStore(session_key)
    user = get_user(request)
    return _caller(user, session_key=session_key) if isinstance(user, User) and user.is_active else None


def still_valid(callers: list[Caller]) -> set[Caller]:
    """Those whose session or key, and account, are good now: two queries for all sockets of a process."""
    keys = [caller.session_key for caller in callers if caller.session_key]
    now = timezone.now()
    sessions = set(
        _engine.SessionStore.get_model_class()
        .objects.filter(session_key__in=keys, expire_date__gt=now)
        .values_list("session_key", flat=True)
    )
    api_keys = set(
        ApiKey.objects.filter(
            pk__in=[caller.api_key_id for caller in callers if caller.api_key_id], revoked_at__isnull=True
        )
        .exclude(expires_at__lte=now)
        .values_list("pk", flat=True)
    )
    users = set(
        User.objects.filter(
            pk__in={caller.user_id for caller in callers}, is_active=True, tenant__is_active=True
        ).values_list("pk", flat=True)
    )
    return {
        caller
        for caller in callers
        if caller.user_id in users and (caller.session_key in sessions or caller.api_key_id in api_keys)
    }


def _caller(user: User, **by: Any) -> Caller | None:
    if user.tenant_id is None:
        return None
    return Caller(user.pk, user.tenant_id, user.name, user.initials, **by)


def _own_origin(headers: dict[str, str]) -> bool:
    """The page and the socket came from the same host and port."""
    origin = urlsplit(headers.get("origin", ""))
    return bool(origin.netloc) and origin.netloc == headers.get("host")
