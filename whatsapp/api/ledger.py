"""REST of the webhook ledger: what came, what became of it, and running it again (spec/inbound.md section 1)."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, ClassVar, Literal
from uuid import UUID

from django.db.models import Exists, OuterRef, Q, QuerySet
from django.utils import timezone
from pydantic import AwareDatetime, Field
from rest_framework import exceptions, status
from rest_framework.request import Request
from rest_framework.response import Response

from leadengine.accounts.api import Body, Query, ScopedAPIView, answer, describe
from leadengine.accounts.permissions import Role
from leadengine.errors import NotFound
from leadengine.wake import wake_on_commit
from whatsapp.models import WebhookEvent, WebhookItem
from whatsapp.serializers import WebhookEventDetailShape, WebhookEventShape, event_detail_json, event_json
from whatsapp.services.intake import InvalidWebhookJson
from whatsapp.services.reprocessing import BodyGone, claim_orphan, requeue_events
from whatsapp.tasks import drain

# Ids are made when an event is received and hold that time; the clock of the door may be read a little earlier.
SLACK = timedelta(minutes=1)


class EventQuery(Query):
    """`fate`, `reason` and `externalId` are those of an item, `reason` also that of the event."""

    status: tuple[Literal["PENDING", "PROCESSED", "ORPHAN", "FAILED", "REJECTED"], ...] = ()
    fate: tuple[str, ...] = ()
    reason: str | None = Field(None, max_length=40)
    kind: str | None = Field(None, max_length=40)
    session_id: UUID | None = None
    external_id: str | None = Field(None, max_length=255)
    from_: AwareDatetime | None = Field(None, alias="from")
    to: AwareDatetime | None = None


class DetailQuery(Body):
    include: Literal["body"] | None = None


class ClaimBody(Body):
    session_id: UUID


class EventListView(ScopedAPIView):
    permissions: ClassVar = {"GET": "sessions:read"}

    @describe(WebhookEventShape, many=True, query=EventQuery)
    def get(self, request: Request) -> Response:
        """Webhook events of the tenant, the newest first; a superuser of the platform sees all, orphans included."""
        query = self.read_query(EventQuery)
        events = _filtered(self.of_tenant(WebhookEvent.objects.all()).defer("body"), query)
        return self.answer_page(events, query, event_json, descending=True)


class EventView(ScopedAPIView):
    permissions: ClassVar = {"GET": "sessions:read"}

    @describe(WebhookEventDetailShape, query=DetailQuery)
    def get(self, request: Request, event_id: UUID) -> Response:
        """One event with its items; `include=body` adds the body as it came, for admins."""
        with_body = self.read_query(DetailQuery).include == "body"
        if with_body and self.user.role != Role.ADMIN and not self.user.is_superuser:
            raise exceptions.PermissionDenied
        event = self.of_tenant(WebhookEvent.objects.all()).filter(pk=event_id).first()
        if event is None:
            raise NotFound("Evento não encontrado.")
        return answer(event_detail_json(event, with_body=with_body))


class ReprocessView(ScopedAPIView):
    permissions: ClassVar = {"POST": "settings:write"}

    @describe(WebhookEventShape, code=status.HTTP_202_ACCEPTED)
    def post(self, request: Request, event_id: UUID) -> Response:
        """Run an event again from its raw bytes; what it did already is not done twice. For admins."""
        self.read_body(Body)
        event = self.of_tenant(WebhookEvent.objects.all()).filter(pk=event_id).first()
        if event is None:
            raise NotFound("Evento não encontrado.")
        done = requeue_events(ids=[event.pk], actor=self.user, now=timezone.now())
        if done.left["body_gone"]:
            raise BodyGone
        if done.left["invalid_json"]:
            raise InvalidWebhookJson("O corpo não é JSON: corrija-o na mesa de mensagens não entregues.")
        return _accepted(event)


class ClaimView(ScopedAPIView):
    permissions: ClassVar = {"POST": "sessions:read"}

    @describe(WebhookEventShape, body=ClaimBody, code=status.HTTP_202_ACCEPTED)
    def post(self, request: Request, event_id: UUID) -> Response:
        """Give an orphan to a session, whose tenant it then belongs to. For superusers; to others there are none."""
        if not self.user.is_superuser or self.tenant_id is not None:
            raise NotFound("Evento não encontrado.")
        body = self.read_body(ClaimBody)
        claim_orphan(event_id=event_id, session_id=body.session_id, actor=self.user, now=timezone.now())
        return _accepted(WebhookEvent.objects.get(pk=event_id))


def _accepted(event: WebhookEvent) -> Response:
    wake_on_commit(drain, "inbound")
    event.refresh_from_db(fields=["status", "reason", "error", "attempts", "session_id"])
    return answer(event_json(event), code=status.HTTP_202_ACCEPTED)


def _filtered(events: Any, query: EventQuery) -> QuerySet[WebhookEvent]:
    same = {
        "status__in": query.status,
        "kind": query.kind,
        "session_id": query.session_id,
        "received_at__gte": query.from_,
        "received_at__lt": query.to,
        # The same range again on the column that the list is sorted by: an old day is not looked for from today on.
        "id__gte": _first_id(query.from_ - SLACK) if query.from_ else None,
        "id__lt": _first_id(query.to + SLACK) if query.to else None,
    }
    events = events.filter(**{name: value for name, value in same.items() if value})
    items = WebhookItem.objects.filter(event=OuterRef("pk"))
    if query.fate:
        events = events.filter(Exists(items.filter(fate__in=query.fate)))
    if query.external_id:
        events = events.filter(Exists(items.filter(external_id=query.external_id)))
    if query.reason:
        events = events.filter(Q(reason=query.reason) | Exists(items.filter(reason=query.reason)))
    filtered: QuerySet[WebhookEvent] = events
    return filtered


def _first_id(at: datetime) -> UUID:
    """The least uuid7 of a moment: 48 bits of milliseconds, then zeros."""
    return UUID(int=max(0, int(at.timestamp() * 1000)) << 80)
