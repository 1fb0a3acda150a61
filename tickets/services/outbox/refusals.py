"""Why the outbox refuses (spec/outbound.md section 6): each with its code, and nothing was changed."""

from __future__ import annotations

import math
from datetime import datetime

from leadengine.errors import DomainError
from tickets.services.shapes import iso


class InstanceRequired(DomainError):
    """Esta conversa não tem conexão de WhatsApp: informe por qual enviar."""

    code = "WHATSAPP_INSTANCE_REQUIRED"
    status = 400


class InstanceDisconnected(DomainError):
    """O WhatsApp está desconectado. A mensagem pode esperar a reconexão."""

    code = "INSTANCE_DISCONNECTED"
    status = 409


class NewerMessage(DomainError):
    """Outra pessoa respondeu enquanto você escrevia."""

    code = "NEWER_MESSAGE"
    status = 409


class TicketClosed(DomainError):
    """O atendimento foi encerrado."""

    code = "TICKET_CLOSED"
    status = 409


class ContactBlocked(DomainError):
    """O contato está bloqueado."""

    code = "CONTACT_BLOCKED"
    status = 409


class ContactPhoneMismatch(DomainError):
    """Este número não é deste contato."""

    code = "CONTACT_PHONE_MISMATCH"
    status = 409


class NotAssignee(DomainError):
    """Só quem está com o atendimento pode responder."""

    code = "NOT_ASSIGNEE"
    status = 409


class IdempotencyKeyMismatch(DomainError):
    """O cabeçalho e o corpo trazem chaves de idempotência diferentes."""

    code = "IDEMPOTENCY_KEY_MISMATCH"
    status = 409


class IdempotencyKeyRequired(DomainError):
    """Informe uma chave de idempotência."""

    code = "IDEMPOTENCY_KEY_REQUIRED"
    status = 409


class IdempotencyKeyReused(DomainError):
    """Esta chave de idempotência já foi usada para outra mensagem."""

    code = "IDEMPOTENCY_KEY_REUSED"
    status = 422


class UnsupportedOperation(DomainError):
    """Esta conexão não envia mensagens deste tipo."""

    code = "UNSUPPORTED_OPERATION"
    status = 501


class AlreadySending(DomainError):
    """A mensagem já saiu ou está saindo."""

    code = "ALREADY_SENDING"
    status = 409


class ResendNotAllowed(DomainError):
    """A mensagem pode ter chegado: confirme que ela pode ir em dobro."""

    code = "RESEND_NOT_ALLOWED"
    status = 409


class RateLimited(DomainError):
    """O limite de envios por minuto foi atingido: tente de novo mais tarde."""

    code = "RATE_LIMITED"
    status = 429

    def __init__(self, *, limit: int, resets_at: datetime, now: datetime) -> None:
        wait = max(0.0, (resets_at - now).total_seconds())
        super().__init__(retryAfterMs=math.ceil(wait * 1000), limit=limit)
        self.headers = {
            "Retry-After": str(math.ceil(wait)),
            "X-RateLimit-Limit": str(limit),
            "X-RateLimit-Remaining": "0",
            "X-RateLimit-Reset": str(int(resets_at.timestamp())),  # seconds since 1970
        }


class CircuitOpen(DomainError):
    """O WhatsApp desta conexão não está respondendo. A mensagem pode esperar a volta."""

    code = "WHATSAPP_CIRCUIT_OPEN"
    status = 423

    def __init__(self, *, retry_at: datetime, now: datetime) -> None:
        super().__init__(retryAt=iso(retry_at))
        self.headers = {"Retry-After": str(max(1, math.ceil((retry_at - now).total_seconds())))}


class MediaTooLarge(DomainError):
    """O arquivo é maior do que esta conexão aceita. Envie um menor."""

    code = "MEDIA_TOO_LARGE"
    status = 413
