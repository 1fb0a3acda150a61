"""The broker fetches a caller's file from inside our network: its address must be public (outbound.md section 14)."""

from __future__ import annotations

from django.conf import settings

from leadengine.ssrf import Blocked, Unreachable, require_public
from tickets.transports import Refused, Retryable

CODE = "INVALID_MEDIA"


def refuse_private(url: str) -> None:
    """Resolve the host of a file's address. Raises: Refused when an address of it is not public, Retryable when none.

    The door checked what stands in the URL; names are looked up here, because a door makes no outgoing call.
    """
    if settings.OUTBOUND_MEDIA_ALLOW_PRIVATE:
        return
    try:
        require_public(url)
    except Unreachable as error:
        raise Retryable(CODE, "O endereço do arquivo não foi encontrado.") from error
    except Blocked as error:
        raise Refused(CODE, "O endereço do arquivo não é público.") from error
