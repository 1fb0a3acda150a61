"""What a call to a broker may end in: one vocabulary for every broker (D34, spec/broker.md section 7)."""

from __future__ import annotations

from typing import Any, ClassVar

from leadengine.errors import DomainError

RATE_PAUSE = 15.0  # seconds, when the broker does not say how long


class BrokerError(DomainError):
    """O serviço do WhatsApp respondeu com erro."""

    code = "BROKER_ERROR"
    status = 502
    # Whether what was asked for may have been done all the same.
    unknown: ClassVar[bool] = False
    # Whether the broker as a whole is ill, as opposed to one session or one request.
    ill: ClassVar[bool] = False

    def __init__(
        self,
        message: str = "",
        *,
        http_status: int | None = None,
        answer: str = "",
        external_id: str | None = None,
        **details: Any,
    ) -> None:
        super().__init__(message, **details)
        self.http_status = http_status
        self.answer = answer
        self.external_id = external_id  # of a message that was refused and named all the same


class BrokerFailed(BrokerError):
    """O serviço do WhatsApp falhou: a mensagem pode ter saído."""

    unknown = ill = True


class BrokerTimeout(BrokerFailed):
    """O serviço do WhatsApp não respondeu a tempo: a mensagem pode ter saído."""

    code = "BROKER_TIMEOUT"
    status = 504


class BrokerUnreachable(BrokerError):
    """O serviço do WhatsApp está fora do ar."""

    code = "BROKER_UNREACHABLE"
    ill = True


class BrokerAuth(BrokerError):
    """O serviço do WhatsApp recusou a nossa chave."""

    code = "BROKER_AUTH"
    ill = True


class InstanceDisconnected(BrokerError):
    """O WhatsApp desta conexão está desconectado."""

    code = "INSTANCE_DISCONNECTED"
    status = 409


class InstanceNotFound(BrokerError):
    """Esta conexão não existe no serviço do WhatsApp."""

    code = "INSTANCE_NOT_FOUND"
    status = 404


class InstanceExists(BrokerError):
    """Já existe uma conexão com este nome no serviço do WhatsApp."""

    code = "INSTANCE_EXISTS"
    status = 409


class InvalidTo(BrokerError):
    """O número não existe no WhatsApp."""

    code = "INVALID_TO"
    status = 400


class InvalidMedia(BrokerError):
    """O WhatsApp não aceitou o arquivo."""

    code = "INVALID_MEDIA"
    status = 400


class MessageRejected(BrokerError):
    """O WhatsApp recusou a mensagem."""

    code = "MESSAGE_REJECTED"
    status = 400


class RiskPaused(BrokerError):
    """Pausada por risco: um supervisor precisa liberar."""

    code = "RISK_PAUSED"
    status = 409


class RateLimited(BrokerError):
    """O WhatsApp pediu uma pausa no ritmo de envio."""

    code = "RATE_LIMITED"
    status = 429

    def __init__(self, message: str = "", *, retry_after: float = RATE_PAUSE, **more: Any) -> None:
        super().__init__(message, **more)
        self.retry_after = retry_after


class UnsupportedOperation(BrokerError):
    """O serviço do WhatsApp não oferece esta operação."""

    code = "UNSUPPORTED_OPERATION"
    status = 501
