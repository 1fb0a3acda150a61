"""What callers ask a broker through us: who answers for a number, groups, figures (spec/outbound.md section 11).

All calls of one question together may take WHATSAPP_BROKER_TIMEOUT_MS; no transaction may be open. Nothing is sent, so
nothing is in doubt when the broker fails: it may be asked again.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import datetime
from typing import Any

from django.conf import settings

from leadengine.redis import UNAVAILABLE, client
from whatsapp import broker_errors
from whatsapp.adapters import Group, Reached, get_adapter
from whatsapp.adapters.patience import within
from whatsapp.models import WhatsAppSession
from whatsapp.services.sessions.acting import NotConnected
from whatsapp.services.sessions.listening import ask_for_look
from whatsapp.services.sessions.looking import wire_name
from whatsapp.services.sessions.wishes import InstanceNotFound

GROUPS_KEPT_SECONDS = 60


def find_numbers(*, session: WhatsAppSession, numbers: Sequence[str]) -> list[Reached]:
    """Who answers for each number, in their order. Raises: NotConnected, InstanceNotFound, BrokerError."""
    _require(session, "exists")
    with _asked(session):
        return get_adapter().find(instance=wire_name(session), numbers=numbers)


def list_groups(*, session: WhatsAppSession) -> list[Group]:
    """The groups of a session as they were a minute ago at most; asked anew while Redis is away.

    Raises: NotConnected, InstanceNotFound, BrokerError.
    """
    _require(session, "groupsRead")
    key = f"broker-groups:{session.pk}"
    with suppress(*UNAVAILABLE):
        kept: Any = client().get(key)
        if kept is not None:
            return [Group(**one) for one in json.loads(kept)]
    with _asked(session):
        found = get_adapter().groups(instance=wire_name(session))
    with suppress(*UNAVAILABLE):
        client().set(key, json.dumps([asdict(one) for one in found]), ex=GROUPS_KEPT_SECONDS)
    return found


def read_metrics(*, session: WhatsAppSession, since: datetime, until: datetime) -> dict[str, Any]:
    """What the broker counts of a session. Raises: NotConnected, InstanceNotFound, BrokerError."""
    _require_connected(session)
    with _asked(session):
        return get_adapter().metrics(instance=wire_name(session), since=since, until=until)


def _require_connected(session: WhatsAppSession) -> None:
    """Raises: NotConnected for a session that is offline as far as we know: the broker is not asked then."""
    if not session.connected:
        raise NotConnected(status=session.status, connected=False, instanceId=session.connection_id)


def _require(session: WhatsAppSession, capability: str) -> None:
    """Raises: UnsupportedOperation where the broker of this session cannot do that; NotConnected."""
    if not {**get_adapter().capabilities, **(session.capabilities or {})}.get(capability):
        raise broker_errors.UnsupportedOperation
    _require_connected(session)


@contextmanager
def _asked(session: WhatsAppSession) -> Iterator[None]:
    """The broker has so long, and what keeps it from answering is said in words that fit a question.

    What it says of the session contradicts our row, so a worker looks at it at once.
    """
    try:
        with within(settings.WHATSAPP_BROKER_TIMEOUT_MS / 1000):
            yield
    except broker_errors.InstanceNotFound as error:
        ask_for_look(session.pk, source="api", contradicted=True)
        raise InstanceNotFound from error
    except broker_errors.InstanceDisconnected as error:
        ask_for_look(session.pk, source="api", contradicted=True)
        raise NotConnected(
            status=session.status, connected=False, instanceId=session.connection_id, state=_state_in(error.answer)
        ) from error
    except broker_errors.RateLimited as error:
        wait = error.retry_after
        raise broker_errors.RateLimited(
            retry_after=wait, retryAfter=math.ceil(wait), retryAfterMs=math.ceil(wait * 1000)
        ) from error
    except broker_errors.BrokerTimeout as error:
        raise broker_errors.BrokerTimeout(
            "O serviço do WhatsApp não respondeu a tempo: tente de novo em instantes."
        ) from error
    except broker_errors.BrokerFailed as error:
        raise broker_errors.BrokerFailed("O serviço do WhatsApp falhou: tente de novo em instantes.") from error


def _state_in(answer: str) -> str | None:
    """The broker's own word for the state of the line."""
    with suppress(ValueError):
        said = json.loads(answer)
        state = said.get("state") if isinstance(said, dict) else None
        return state if isinstance(state, str) else None
    return None
