"""REST of what a broker is asked through us, and the door of polls (spec/outbound.md section 11)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, ClassVar

from django.utils import timezone
from pydantic import AwareDatetime, Field, model_validator
from rest_framework import status
from rest_framework.request import Request
from rest_framework.response import Response

from leadengine.accounts.api import Body, answer, describe
from leadengine.accounts.api.schema import Shape
from leadengine.envelope import sentence_of
from leadengine.errors import DomainError, ValidationFailed
from tickets.api.messages import AcceptedShape, accepted
from tickets.queries.sends import LONGEST, count_sends
from tickets.services.outbox.admission import Rate, read_rate
from tickets.services.shapes import iso
from whatsapp.api.base import SessionAPIView
from whatsapp.api.doors import NumberDoor, ToNumberBody
from whatsapp.broker_errors import BrokerError, InvalidTo
from whatsapp.models import WhatsAppSession
from whatsapp.services import proxies
from whatsapp.services.lines import capabilities_of
from whatsapp.services.outgoing import InvalidTo as NoNumber
from whatsapp.services.outgoing import read_to
from whatsapp.transport import UnsupportedRecipient, choose_address

MOST_NUMBERS = 50
_DAY = timedelta(days=1)
# Years in which dates can be reckoned with.
Time = Annotated[AwareDatetime, Field(ge=datetime(2000, 1, 1, tzinfo=UTC), le=datetime(2100, 1, 1, tzinfo=UTC))]
_SENT = ("SENT", "DELIVERED", "READ")
_STATES = ("SCHEDULED", "QUEUED", "SENDING", "UNCONFIRMED", *_SENT, "FAILED", "CANCELED")


class ExistsBody(Body):
    """One number, or several."""

    to: str | None = Field(None, max_length=60)
    numbers: list[str] | None = Field(None, min_length=1, max_length=MOST_NUMBERS)

    @model_validator(mode="after")
    def _one_form(self) -> ExistsBody:
        if (self.to is None) == (self.numbers is None):
            raise ValueError("to: Informe to ou numbers, um dos dois.")
        return self

    def asked(self) -> dict[str, str]:
        """The numbers, by the field that each stands in."""
        if self.numbers is None:
            return {"to": self.to or ""}
        return {f"numbers.{place}": number for place, number in enumerate(self.numbers)}


class AnsweringShape(Shape):
    """`to` as it was asked for; `jid` as the broker writes it."""

    to: str
    exists: bool
    jid: str | None


class ExistsShape(Shape):
    """`exists`: somebody answers for every number asked for. `waAddress` is what to write to, of one number."""

    exists: bool
    wa_address: str | None
    results: list[AnsweringShape]


class GroupShape(Shape):
    id: str
    subject: str | None


class GroupListShape(Shape):
    groups: list[GroupShape]


class MetricsQuery(Body):
    """A time of at most 31 days; the last 24 hours when nothing is said."""

    since: Time | None = Field(None, alias="from")
    until: Time | None = Field(None, alias="to")

    def window(self, now: datetime) -> tuple[datetime, datetime]:
        """The time that is asked for. Raises: ValidationFailed."""
        until = self.until or now
        since = self.since or until - _DAY
        if since >= until:
            raise ValidationFailed([{"field": "from", "message": "Deve ser antes de to."}])
        if until - since > LONGEST:
            raise ValidationFailed([{"field": "from", "message": f"No máximo {LONGEST.days} dias antes de to."}])
        return since, until


class RateUsedShape(Shape):
    """Accepted sends of this minute; a `limit` of 0 is none, and nothing remains to be said."""

    limit: int
    used: int
    remaining: int | None
    percentage: float


class LocalMetricsShape(Shape):
    """`sent` left for WhatsApp; `byStatus` counts every state. What was typed on the phone is not counted."""

    sent: int
    failed: int
    by_status: dict[str, int]
    rate: RateUsedShape


class BrokerProblemShape(Shape):
    code: str
    message: str


class MetricsShape(Shape):
    """`broker` holds its own words, without keys; null when it could not be asked, `brokerError` says why."""

    local: LocalMetricsShape
    broker: dict[str, Any] | None
    broker_error: BrokerProblemShape | None


class PollBody(ToNumberBody):
    """The poll stands at the top level."""

    question: str
    options: list[str]
    allow_multiple_answers: bool = False

    def content(self) -> dict[str, Any]:
        """The payload of the poll. Raises: ValidationFailed for one that stands elsewhere."""
        beside = self.model_extra or {}
        elsewhere = {"type", "poll"} & beside.keys() | ({"payload"} if self.payload is not None else set())
        if elsewhere:
            raise ValidationFailed([{"field": name, "message": "Campo desconhecido."} for name in sorted(elsewhere)])
        poll = self.model_dump(by_alias=True, include={"question", "options", "allow_multiple_answers"})
        return {**beside, "type": "poll", "poll": poll}

    def named_here(self, refused: ValidationFailed) -> ValidationFailed:
        """Without `poll.` in front."""
        errors = refused.details["errors"]
        return ValidationFailed([{**one, "field": one["field"].removeprefix("poll.")} for one in errors])


class PollStateShape(Shape):
    """`id` is WhatsApp's once it is known, until then that of our message."""

    id: str
    status: str


class RateLeftShape(Shape):
    limit: int
    remaining: int | None
    reset_at: datetime


class PollAcceptedShape(AcceptedShape):
    poll: PollStateShape
    rate: RateLeftShape


class ExistsView(SessionAPIView):
    permissions: ClassVar = {"POST": "messages:send"}

    @describe(ExistsShape, body=ExistsBody)
    def post(self, request: Request, instance_id: str) -> Response:
        """Whether somebody answers for a number on WhatsApp, and at which address."""
        session = self.find(instance_id)
        body = self.read_body(ExistsBody)
        asked = body.asked()
        found = proxies.find_numbers(session=session, numbers=_addresses(session, asked))
        results = [
            {"to": word, "exists": one.address is not None, "jid": one.jid}
            for word, one in zip(asked.values(), found, strict=True)
        ]  # fmt: skip
        address = found[0].address if body.numbers is None else None
        return answer({"exists": all(one["exists"] for one in results), "waAddress": address, "results": results})


class GroupListView(SessionAPIView):
    @describe(GroupListShape)
    def get(self, request: Request, instance_id: str) -> Response:
        """The groups that a connection is in, as they were a minute ago at most."""
        session = self.find(instance_id)
        self.read_query(Body)
        groups = proxies.list_groups(session=session)
        return answer({"groups": [{"id": one.id, "subject": one.subject} for one in groups]})


class MetricsView(SessionAPIView):
    @describe(MetricsShape, query=MetricsQuery)
    def get(self, request: Request, instance_id: str) -> Response:
        """What a connection has sent in a time, as we and as the broker count it."""
        session = self.find(instance_id)
        now = timezone.now()
        since, until = self.read_query(MetricsQuery).window(now)
        told, problem = None, None
        try:
            told = proxies.read_metrics(session=session, since=since, until=until)
        except BrokerError as error:  # what we know is told without it
            problem = {"code": error.code, "message": sentence_of(error)}
        with self.scope():
            counted = count_sends(tenant_id=session.tenant_id, session_id=session.pk, since=since, until=until)
        local = {
            "sent": sum(counted.get(state, 0) for state in _SENT),
            "failed": counted.get("FAILED", 0),
            "byStatus": {state: counted.get(state, 0) for state in _STATES},
            "rate": _used(read_rate(session_id=session.pk, now=now)),
        }
        return answer({"local": local, "broker": told, "brokerError": problem})


class PollView(NumberDoor):
    @describe(PollAcceptedShape, body=PollBody, code=status.HTTP_202_ACCEPTED)
    def post(self, request: Request, instance_id: str) -> Response:
        """Accept a poll to a number: a door of the outbox, as that of messages."""
        now = timezone.now()
        queued = self.accept(PollBody, instance_id, now)
        assert queued.message.session_id is not None  # noqa: S101 - narrows the type
        response = accepted(queued)
        told, rate = response.data["data"], read_rate(session_id=queued.message.session_id, now=now)
        told["poll"] = {"id": told["externalId"], "status": told["status"]}
        told["rate"] = {"limit": rate.limit, "remaining": _remaining(rate), "resetAt": iso(rate.resets_at)}
        return response


def _addresses(session: WhatsAppSession, asked: dict[str, str]) -> list[str]:
    """What the broker is asked for, never a foreign number as a Brazilian one. Raises: InvalidTo, UnsupportedRecipient,
    with each bad field in `details.errors`."""
    capabilities = capabilities_of(session.capabilities)
    addresses: list[str] = []
    problems: dict[str, DomainError] = {}
    for field, word in asked.items():
        try:
            addresses.append(choose_address(capabilities, [("phone", read_to(word))], is_group=False))
        except (NoNumber, InvalidTo, UnsupportedRecipient) as error:
            problems[field] = error
    if problems:
        worst = min(problems.values(), key=lambda error: error.status)
        raise type(worst)(errors=[{"field": field, "message": error.message} for field, error in problems.items()])
    return addresses


def _used(rate: Rate) -> dict[str, Any]:
    percentage = round(100 * rate.used / rate.limit, 1) if rate.limit else 0.0
    return {"limit": rate.limit, "used": rate.used, "remaining": _remaining(rate), "percentage": percentage}


def _remaining(rate: Rate) -> int | None:
    return rate.remaining if rate.limit else None
