"""The two kinds of error that we raise on purpose. No Django here: settings.py imports this module."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar


class ConfigurationError(Exception):
    """The process must not start. The message is one sentence that names the variable and says what to do."""


class DomainError(Exception):
    """An anticipated refusal: it has a code, a status and a sentence, and nothing was changed.

    `code` is English and stable, `message` is for people (pt-BR or English), `details` holds JSON values.
    Services raise subclasses called `UnableTo…`; the edges turn them into the one error envelope.
    """

    code: ClassVar[str] = "BAD_REQUEST"
    status: ClassVar[int] = 400
    headers: Mapping[str, str] = {}  # of the answer, where the contract asks for some; never changed in place

    def __init__(self, message: str = "", **details: Any) -> None:
        self.message = message or (self.__doc__ or "").strip().splitlines()[0].partition(" Details: ")[0]
        self.details = details
        super().__init__(self.message)


class NotFound(DomainError):
    """Não encontrado."""

    code = "NOT_FOUND"
    status = 404


class ValidationFailed(DomainError):
    """Há campos inválidos."""

    code = "VALIDATION_ERROR"
    status = 400

    def __init__(self, errors: list[dict[str, str]], message: str = "") -> None:
        super().__init__(message or summary(errors), errors=errors)


class NotConfigured(DomainError):
    """A integração com o WhatsApp não está configurada."""

    code = "WHATSAPP_NOT_CONFIGURED"
    status = 503

    def __init__(self, missing: list[str]) -> None:
        super().__init__("Configure " + ", ".join(missing), missing=missing)


def summary(errors: Iterable[dict[str, str]]) -> str:
    """What is wrong with each field, as one sentence; an error without a field is about all of it."""
    return "; ".join(f"{one['field']}: {one['message']}" if one["field"] else one["message"] for one in errors)
