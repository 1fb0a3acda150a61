"""Random histories of conversations, by the services that the product uses. In whole seconds, so that many tie."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from leadengine.accounts.scopes import tenant_scope, user_scope
from leadengine.errors import DomainError
from leads.services import Person
from tests.conftest import World
from tests.outbound import claim_due
from tickets.models import Message, Ticket
from tickets.services.arrivals import Arrival, record_arrivals
from tickets.services.echoes import Echo, settle_echoes
from tickets.services.effects import Ack, apply_acks, edit_message, revoke_message
from tickets.services.files import File
from tickets.services.lifecycle import close_ticket
from tickets.services.outbox import cancel_message, queue_message, resend_message, sweep_outbox
from tickets.services.outbox.claiming import Claim
from tickets.services.outbox.settling import Try, settle
from tickets.transports import OutcomeUnknown, Refused, Retryable, SendFailure, Sent, get_transport

BEGAN = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
PEOPLE = ("+5511988887777", "+5511977776666", "+5511966665555")
_runs = itertools.count(1)


class History:
    """One random history of two customers of the world's line; `told` lists what happened."""

    def __init__(self, world: World, seed: int) -> None:
        self.world, self.tenant_id = world, world.ipe.pk
        self.random = random.Random(seed)
        self.told: list[str] = []
        self.flying: list[Claim] = []
        self._times: list[datetime] = []
        self._name = f"H{next(_runs)}-{seed}"
        self._ids = itertools.count(1)
        self._steps: list[tuple[int, Callable[[], None]]] = [
            (5, self.arrive), (2, self.type_on_phone), (1, self.arrive_as_batch), (5, self.queue), (4, self.claim),
            (6, self.settle), (1, self.lose_worker), (3, self.echo), (4, self.ack), (2, self.edit), (1, self.revoke),
            (1, self.enrich), (1, self.cancel), (1, self.resend), (1, self.close),
        ]  # fmt: skip

    def step(self) -> None:
        """Let something happen."""
        weights = [weight for weight, _ in self._steps]
        chosen = self.random.choices([step for _, step in self._steps], weights)[0]
        self.told.append(chosen.__name__)
        chosen()

    def tickets(self) -> list[Ticket]:
        with tenant_scope(self.tenant_id):
            return list(Ticket.objects.order_by("number"))

    def arrive(self) -> None:
        self._record([self._arrival("INBOUND")])

    def type_on_phone(self) -> None:
        self._record([self._arrival("OUTBOUND")])

    def arrive_as_batch(self) -> None:
        self._record([self._arrival(self.random.choice(("INBOUND", "OUTBOUND"))) for _ in range(5)])

    def enrich(self) -> None:
        """A hollow first copy, then one that says what it was."""
        first = self._arrival("INBOUND", type="UNKNOWN", text="")
        self._record([first])
        first.type, first.text = "IMAGE", "a foto"
        first.file = File("image")
        self._record([first])

    def queue(self) -> None:
        live = [ticket for ticket in self.tickets() if ticket.is_live]
        if live:
            ticket = self.random.choice(live)
            with user_scope(self.world.supervisor):
                queue_message(
                    ticket_id=ticket.pk, author=self.world.supervisor, payload={"text": self._text()}, now=self._at()
                )

    def claim(self) -> None:
        with tenant_scope(self.tenant_id):
            line = get_transport("WHATSAPP").line(self.world.line.pk)
        assert line is not None
        self.flying += claim_due(line=line, now=self._at())

    def settle(self) -> None:
        if not self.flying:
            return
        claim = self.flying.pop(self.random.randrange(len(self.flying)))
        # Often in the second in which the customer wrote: then the place in the thread decides who spoke last.
        heard = {ticket.pk: ticket.last_inbound_at for ticket in self.tickets()}[claim.place.ticket_id]
        finished = self.random.choice((heard or self._at(), self._at()))
        finished += timedelta(milliseconds=self.random.randrange(1000))
        result = self._outcome()
        self.told.append(repr(result))
        if isinstance(result, Sent) and result.external_id and self.random.random() < 0.2:
            # Its echo came first, altered, and was taken for one typed on the phone.
            self._record([self._arrival("OUTBOUND", external_id=result.external_id)])
            self._change_own(result.external_id)
        settle(transport=get_transport("WHATSAPP"), claim=claim, tried=Try(result, finished, 5))

    def lose_worker(self) -> None:
        sweep_outbox(now=BEGAN + timedelta(minutes=3))

    def echo(self) -> None:
        rows = self._messages(direction="OUTBOUND", external_id=None)
        row = self.random.choice(rows) if rows else None
        who = next(one.value for one in row.contact.identities.all() if one.kind == "phone") if row else PEOPLE[0]
        echo = Echo(
            (self.world.line.pk, self._id()), (("phone", who),), row.type if row else "TEXT",
            row.content if row else "nada", self._at(),
        )  # fmt: skip
        with tenant_scope(self.tenant_id):
            settle_echoes(tenant_id=self.tenant_id, echoes=[echo], now=BEGAN + timedelta(minutes=1))

    def ack(self) -> None:
        rows = self._messages(direction="OUTBOUND", external_id__isnull=False)
        if rows:
            self._change_own(str(self.random.choice(rows).external_id))

    def edit(self) -> None:
        for row in self._any_with_id():
            with tenant_scope(self.tenant_id):
                actor = "me" if row.direction == "OUTBOUND" else "x"
                edit_message(
                    tenant_id=self.tenant_id, key=_key(row), actor=actor, text=self._text(),
                    at=self._at(),
                )  # fmt: skip

    def revoke(self) -> None:
        for row in self._any_with_id():
            with tenant_scope(self.tenant_id):
                actor = "me" if row.direction == "OUTBOUND" else "x"
                revoke_message(tenant_id=self.tenant_id, key=_key(row), actor=actor, at=self._at())

    def cancel(self) -> None:
        self._act_on(cancel_message, status="QUEUED")

    def resend(self) -> None:
        self._act_on(resend_message, status__in=["FAILED", "UNCONFIRMED"], confirm_duplicate=True)

    def close(self) -> None:
        live = [ticket for ticket in self.tickets() if ticket.is_live]
        if live:
            with user_scope(self.world.supervisor):
                close_ticket(
                    actor=self.world.supervisor, ticket_id=self.random.choice(live).pk, reason_code="SOLVED",
                    now=self._at(),
                )  # fmt: skip

    # --- Parts -----------------------------------------------------------------------------------------------------

    def _record(self, arrivals: list[Arrival]) -> None:
        with tenant_scope(self.tenant_id):
            record_arrivals(tenant_id=self.tenant_id, arrivals=arrivals, now=self._at())

    def _arrival(self, direction: Any, *, type: str = "TEXT", **more: Any) -> Arrival:
        person = Person((("phone", self.random.choice(PEOPLE)),), name="Maria")
        fields = {"external_id": self._id(), "text": self._text()} | more
        return Arrival(
            session_id=self.world.line.pk, direction=direction, person=person, type=type, sent_at=self._at(),
            received_at=self._at(), **fields,
        )  # fmt: skip

    def _change_own(self, external_id: str) -> None:
        ack = Ack((self.world.line.pk, external_id), self.random.choice((0, 0, 1, 2, 3, 4, 5)), self._at())
        with tenant_scope(self.tenant_id):
            apply_acks(tenant_id=self.tenant_id, acks=[ack])

    def _act_on(self, service: Callable[..., Any], *, confirm_duplicate: bool | None = None, **where: Any) -> None:
        rows = self._messages(**where)
        if rows:
            more = {} if confirm_duplicate is None else {"confirm_duplicate": confirm_duplicate}
            try:
                with user_scope(self.world.supervisor):
                    service(actor=self.world.supervisor, message_id=self.random.choice(rows).pk, now=self._at(), **more)
            except DomainError as error:
                self.told.append(error.code)

    def _outcome(self) -> Sent | SendFailure:
        outcomes: list[Sent | SendFailure] = [
            Sent(self._id(), 200, "{}"),
            Sent(self._id(), 200, "{}"),
            Sent(None, 200, "{}"),
            OutcomeUnknown("BROKER_TIMEOUT", "?"),
            Refused("MESSAGE_REJECTED", "não"),
            Refused("MESSAGE_REJECTED", "não", external_id=self._id()),
            Retryable("BROKER_UNREACHABLE", "depois"),
        ]
        return self.random.choice(outcomes)

    def _any_with_id(self) -> list[Message]:
        rows = self._messages(external_id__isnull=False)
        return [self.random.choice(rows)] if rows else []

    def _messages(self, **where: Any) -> list[Message]:
        with tenant_scope(self.tenant_id):
            rows = Message.objects.prefetch_related("contact__identities").filter(**where)
            return list(rows.order_by("created_at", "id"))

    def _at(self) -> datetime:
        """About now: time goes on, and what happens is told late, or at the same moment as something else."""
        if not self._times or self.random.random() < 0.4:
            self._times.append(BEGAN + timedelta(seconds=len(self.told) // 4 + self.random.randrange(-4, 3)))
        return self.random.choice(self._times[-5:])

    def _id(self) -> str:
        return f"{self._name}-{next(self._ids)}"

    def _text(self) -> str:
        return f"texto {self.random.randrange(1000)}"


def _key(row: Message) -> tuple[UUID, str]:
    assert row.session_id is not None
    assert row.external_id is not None
    return row.session_id, row.external_id


def ids_of(tickets: list[Ticket]) -> list[UUID]:
    return [ticket.pk for ticket in tickets]
