"""The state machine of a connection, the meaning of the broker's codes, and the pauses between attempts. Pure.

Rules: spec/sessions.md sections 2 and 8. Protected (docs/protected.toml): tests/whatsapp/sessions/test_states.py covers
every pair of status and trigger.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Literal

from whatsapp.models import WhatsAppSession

Status = WhatsAppSession.Status
FIRST_PAUSE = 5  # seconds
JITTER = 0.2
ATTEMPTS_UNTIL_ERROR = 3
STRIKES = 3
RESTARTS, RESTART_WINDOW = 5, timedelta(minutes=10)  # so many 515 in so long count as 411


class Trigger(StrEnum):
    """What may change a status."""

    CONNECT = "connect"  # asked for by a person, or an attempt of the reconnect policy
    SCAN = "scan"  # the broker waits for a scan
    OPEN = "open"
    GAVE_UP = "gave_up"  # nobody scanned
    DROP = "drop"  # the link is lost and worth another try
    FAIL = "fail"  # no link, and another try will not help, or too many have failed
    LOGOUT = "logout"  # reported by the broker
    DUPLICATE = "duplicate"
    STOP = "stop"  # asked for by a person


_FROM: dict[Trigger, dict[str, str]] = {
    Trigger.CONNECT: dict.fromkeys(
        (Status.DISCONNECTED, Status.ERROR, Status.DUPLICATE, Status.LOGGED_OUT), Status.CONNECTING
    ),
    Trigger.SCAN: dict.fromkeys((Status.CONNECTING, Status.LOGGED_OUT), Status.QRCODE),
    Trigger.OPEN: dict.fromkeys((s for s in Status if s != Status.DUPLICATE), Status.CONNECTED),
    Trigger.GAVE_UP: {Status.QRCODE: Status.DISCONNECTED},
    Trigger.DROP: {Status.CONNECTED: Status.CONNECTING},
    Trigger.FAIL: dict.fromkeys((Status.CONNECTING, Status.CONNECTED), Status.ERROR),
    Trigger.LOGOUT: dict.fromkeys(Status, Status.LOGGED_OUT),
    Trigger.DUPLICATE: dict.fromkeys(Status, Status.DUPLICATE),
    Trigger.STOP: dict.fromkeys(Status, Status.DISCONNECTED),
}


def next_status(status: str, trigger: Trigger, *, paired: bool) -> str | None:
    """The status that follows; None when the table has no such change, or it is the same.

    `paired`: the connection has been open before, so that nobody scanning ends as logged out, not as given up.
    """
    after = _FROM[trigger].get(status)
    if trigger is Trigger.GAVE_UP and after is not None and paired:
        after = Status.LOGGED_OUT
    return None if after == status else after


@dataclass(frozen=True, slots=True)
class Ending:
    """What the end of a link means. `retry` says when the next attempt is made; the sentences are for people."""

    code: str
    trigger: Trigger
    retry: Literal["later", "now", "never"]
    reauth_reason: str | None
    message: str
    action: str


_WAIT = "Aguarde: a reconexão é automática."
_SCAN = "Escaneie o novo QR code com o celular."
LINK_LOST = Ending(
    "LINK_LOST", Trigger.DROP, "later", None, "A ligação com o WhatsApp caiu.", _WAIT
)  # fmt: skip
OUTDATED = Ending(
    "CLIENT_OUTDATED", Trigger.FAIL, "never", "client_update",
    "O WhatsApp exige uma versão mais nova do serviço de conexão.",
    "Atualize o serviço do WhatsApp e conecte de novo.",
)  # fmt: skip
LOGGED_OUT = Ending(
    "LOGGED_OUT", Trigger.LOGOUT, "never", "session_expired", "A sessão foi encerrada no aparelho.", _SCAN
)
BAD_SESSION = Ending(
    "BAD_SESSION", Trigger.LOGOUT, "never", "session_expired", "A sessão guardada ficou inválida.", _SCAN
)
BROKER_RESET = Ending(
    "BROKER_RESET", Trigger.LOGOUT, "now", "broker_reset", "O serviço do WhatsApp perdeu esta conexão.", _SCAN
)
REFUSED_BY_BROKER = Ending(
    "BROKER_REFUSED", Trigger.FAIL, "never", None, "O serviço do WhatsApp recusou criar a conexão.",
    "Confira a configuração do serviço e conecte de novo.",
)  # fmt: skip
NO_ANSWER = Ending(
    "WHATSAPP_UNREACHABLE", Trigger.FAIL, "later", None, "O serviço do WhatsApp não consegue falar com o WhatsApp.",
    "As tentativas continuam. Confira a internet do serviço.",
)  # fmt: skip
QR_EXPIRED = Ending(
    "QR_EXPIRED", Trigger.GAVE_UP, "never", None, "O QR code não foi escaneado a tempo.", "Gere um novo QR code."
)
UNEXPECTED = Ending(
    "UNEXPECTED_CONNECTION", Trigger.OPEN, "never", None,
    "Esta conexão foi aberta no serviço do WhatsApp sem que alguém a pedisse aqui.",
    "Ela será encerrada. Conecte por aqui se quiser mantê-la.",
)  # fmt: skip
_ENDINGS = {
    401: LOGGED_OUT,
    403: Ending(
        "REFUSED_BY_WHATSAPP", Trigger.FAIL, "never", "suspicious_block", "O WhatsApp bloqueou este número.",
        "Verifique o número no aparelho; se o bloqueio continuar, crie outra conexão com outro número.",
    ),
    408: LINK_LOST,
    411: OUTDATED,
    428: LINK_LOST,
    440: Ending(
        "REPLACED_BY_OTHER_CLIENT", Trigger.FAIL, "never", "session_conflict", "Outro cliente assumiu esta sessão.",
        "Encerre o outro cliente e conecte de novo.",
    ),
    500: BAD_SESSION,
    503: LINK_LOST,
    515: Ending("RESTART_REQUIRED", Trigger.DROP, "now", None, "O WhatsApp pediu para reiniciar a ligação.", _WAIT),
}  # fmt: skip


def read_ending(code: int | None, *, restarts: int = 0) -> Ending:
    """What a close code means; `restarts` is how many 515 there were in RESTART_WINDOW, this one included."""
    if code == 515 and restarts >= RESTARTS:
        return OUTDATED
    return _ENDINGS.get(code or 0, LINK_LOST)


def pause_before(attempt: int, *, most: int) -> float:
    """Seconds before the attempt of this number, counted from 1: 5, 10, 20 … `most`, each give or take a fifth."""
    doublings = min(attempt - 1, 30)  # attempts go on for ever, a float does not
    pause = min(FIRST_PAUSE * 2.0**doublings, most)
    return pause * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311 - spreads load, no secret
