"""What a provisioning file may hold, and the check of all that can be checked without the database."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any
from zoneinfo import available_timezones

from django.core.exceptions import ValidationError as DjangoValidationError
from django.core.validators import validate_email
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from pydantic.alias_generators import to_camel

from leadengine.accounts.permissions import Role
from leadengine.errors import DomainError
from tickets.models import QueueMembership
from whatsapp.models import WhatsAppSession


class UnableToProvision(DomainError):
    """O arquivo não pode ser aplicado; nada mudou."""

    code = "PROVISION_REFUSED"
    status = 422

    def __init__(self, path: str, message: str) -> None:
        super().__init__(f"{path}: {message}" if path else message, path=path)


def _email(value: str) -> str:
    try:
        validate_email(value)
    except DjangoValidationError as error:
        raise ValueError("not an e-mail address") from error
    return value.lower()


def _zone(value: str) -> str:
    if value not in available_timezones():
        raise ValueError("not a time zone, such as America/Sao_Paulo")
    return value


def _text(longest: int, pattern: str | None = None) -> Any:
    return StringConstraints(strip_whitespace=True, min_length=1, max_length=longest, pattern=pattern)


Email = Annotated[str, _text(254), AfterValidator(_email)]
Id = Annotated[str, _text(255)]


class _Part(BaseModel):
    """A part of the file. A key that is not known is an error: it would otherwise be a wish that nobody hears."""

    model_config = ConfigDict(extra="forbid", alias_generator=to_camel, populate_by_name=True)

    def given(self, *names: str) -> dict[str, Any]:
        """The values that stand in the file, of these fields: what is left out is left as it is."""
        return {name: getattr(self, name) for name in names if name in self.model_fields_set}


class UserPart(_Part):
    """A person; `queues` are the names of all queues they work in."""

    email: Email
    name: Annotated[str, _text(120)]
    role: Role = Role.AGENT
    password: Annotated[str, StringConstraints(min_length=1, max_length=256)] | None = None
    queues: list[Annotated[str, _text(80)]] = []
    visibility: QueueMembership.Visibility = QueueMembership.Visibility.OWN_UNASSIGNED


class QueuePart(_Part):
    """A queue; the first of a tenant that has no default queue becomes it."""

    name: Annotated[str, _text(80)]
    active: bool = True
    reopen_window_minutes: Annotated[int, Field(ge=0, le=525_600)] = 120
    description: Annotated[str, StringConstraints(max_length=280)] = ""
    colour: Annotated[str, _text(7, r"^#[0-9A-Fa-f]{6}$")] = "#0B6E4F"


class SessionPart(_Part):
    """A WhatsApp connection; without `owner` it belongs to the tenant's first admin."""

    connection_id: Id
    broker_instance_id: Id | None = None
    name: Id | None = None
    status: WhatsAppSession.Status = WhatsAppSession.Status.DISCONNECTED
    owner: Email | None = None
    phone_number: Annotated[str, _text(20, r"^\+?[0-9]{8,15}$")] | None = None


class TokenPart(_Part):
    """An API key that acts for a user; `token` gives it a value chosen by the operator."""

    name: Annotated[str, _text(80)]
    user: Email
    token: Annotated[str, StringConstraints(min_length=32, max_length=256)] | None = None


class TenantPart(_Part):
    """A company with all that is its."""

    slug: Annotated[str, _text(60, r"^[a-z0-9][a-z0-9_-]*$")]
    name: Annotated[str, _text(120)]
    timezone: Annotated[str, AfterValidator(_zone)] = "America/Sao_Paulo"
    users: list[UserPart] = []
    queues: list[QueuePart] = []
    sessions: list[SessionPart] = []
    api_tokens: list[TokenPart] = []


class ProvisionFile(_Part):
    """The whole file."""

    tenants: list[TenantPart]

    def each(self, kind: str) -> Iterator[tuple[str, TenantPart, Any]]:
        """Every part of a kind (`users`, `queues`, `sessions`, `api_tokens`): (its path, its tenant, itself)."""
        for number, tenant in enumerate(self.tenants):
            for index, part in enumerate(getattr(tenant, kind)):
                yield f"tenants[{number}].{to_camel(kind)}[{index}]", tenant, part


def read_file(text: str) -> ProvisionFile:
    """The file as typed parts. Raises: UnableToProvision with the path of the first thing that is wrong."""
    try:
        file = ProvisionFile.model_validate(json.loads(text))
    except json.JSONDecodeError as error:
        raise UnableToProvision(f"line {error.lineno}, column {error.colno}", f"not JSON: {error.msg}") from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise UnableToProvision(_path(first["loc"]), first["msg"].removeprefix("Value error, ")) from error
    _refuse_repetitions(file)
    return file


def _path(location: tuple[int | str, ...]) -> str:
    """`tenants[0].users[1].role`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).removeprefix(".")


def _refuse_repetitions(file: ProvisionFile) -> None:
    """Nothing stands twice in the file: the second would overwrite the first."""
    tenants = ((f"tenants[{number}].slug", tenant.slug) for number, tenant in enumerate(file.tenants))
    _once(tenants)
    _once((f"{path}.email", user.email) for path, _, user in file.each("users"))
    _once((f"{path}.name", (tenant.slug, queue.name)) for path, tenant, queue in file.each("queues"))
    _once((f"{path}.connectionId", session.connection_id) for path, _, session in file.each("sessions"))
    _once((f"{path}.name", (tenant.slug, t.user, t.name)) for path, tenant, t in file.each("api_tokens"))


def _once(values: Iterator[tuple[str, Any]]) -> None:
    seen: dict[Any, str] = {}
    for path, value in values:
        if value in seen:
            raise UnableToProvision(path, f"stands at {seen[value]} already")
        seen[value] = path
