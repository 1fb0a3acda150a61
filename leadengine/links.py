"""Links that open one thing for a short time, without a login: an HMAC over purpose, id and end."""

from __future__ import annotations

import hmac
from datetime import datetime
from hashlib import sha256
from uuid import UUID

from django.conf import settings

from leadengine.errors import DomainError, NotFound


class LinkExpired(DomainError):
    """O link venceu: peça um novo."""

    code = "LINK_EXPIRED"
    status = 410


class LinkInvalid(DomainError):
    """Este link não é válido: peça um novo."""

    code = "LINK_INVALID"
    status = 403


def sign(purpose: str, thing: UUID, *, now: datetime) -> str:
    """The query `exp=…&sig=…` that opens a thing for WHATSAPP_MEDIA_SIGNED_URL_TTL_SECONDS from now on."""
    until = int(now.timestamp()) + settings.WHATSAPP_MEDIA_SIGNED_URL_TTL_SECONDS
    return f"exp={until}&sig={_signature(purpose, thing, until)}"


def check(
    purpose: str,
    thing: UUID,
    *,
    until: str,
    signature: str,
    now: datetime,
    wrong: type[DomainError] = NotFound,
) -> None:
    """Let a right link through. Raises: `wrong` for one that we did not sign, LinkExpired."""
    if not until.isdecimal() or not until.isascii() or len(until) > 12:
        raise wrong
    right = _signature(purpose, thing, int(until))
    if not hmac.compare_digest(right.encode(), signature.encode("utf-8", "replace")):
        raise wrong
    if int(until) < now.timestamp():
        raise LinkExpired


def _signature(purpose: str, thing: UUID, until: int) -> str:
    key = hmac.digest(settings.SECRET_KEY.encode(), b"leadengine.links", "sha256")
    return hmac.new(key, f"{purpose}:{thing}:{until}".encode(), sha256).hexdigest()
