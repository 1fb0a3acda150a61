"""REST of outgoing webhooks (spec/outbound.md section 14); all of it needs webhooks:write."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal
from uuid import UUID

from django.utils import timezone
from pydantic import Field
from rest_framework import exceptions, status
from rest_framework.request import Request
from rest_framework.response import Response

from leadengine.accounts.api import Body, Moment, Query, ScopedAPIView, answer, describe
from leadengine.errors import NotFound, ValidationFailed
from leadengine.moments import iso
from leadengine.webhooks.models import EVENTS, TEST_EVENT, Delivery, Endpoint
from leadengine.webhooks.serializers import (
    DeliveryShape,
    EndpointShape,
    ReplayedShape,
    SecretEndpointShape,
    delivery_json,
    endpoint_json,
)
from leadengine.webhooks.services.calling import check_address
from leadengine.webhooks.services.endpoints import change_endpoint, create_endpoint, delete_endpoint, rotate_secret
from leadengine.webhooks.services.replaying import replay_delivery, replay_period, send_test

EventName = Literal[
    "messages.new", "message.updated", "ticket.message", "ticket.updated", "lead.updated", "whatsapp.session.updated",
    "whatsapp.queue.missing", "whatsapp.timeline.reconciled",
]  # fmt: skip


Events = Annotated[list[EventName], Field(min_length=1, max_length=len(EVENTS))]
Url = Annotated[str, Field(min_length=1, max_length=2000)]
Description = Annotated[str, Field(max_length=200)]


class EndpointBody(Body):
    """Where events go, and which."""

    url: Url
    description: Description = ""
    events: Events
    enabled: bool = True


class EndpointChanges(Body):
    """What is given is changed."""

    url: Url | None = None
    description: Description | None = None
    events: Events | None = None
    enabled: bool | None = None


class ReplayBody(Body):
    """A period, its end left out; without `events` those that the endpoint gets. `after` goes on: see the answer."""

    since: Moment = Field(alias="from")
    until: Moment = Field(alias="to")
    after: UUID | None = None
    events: Events | None = None


class DeliveryQuery(Query):
    """A page of a log."""

    status: Literal["PENDING", "SENDING", "DELIVERED", "DEAD"] | None = None
    event: str | None = Field(None, max_length=40)


class _WebhookView(ScopedAPIView):
    """What all of them share: the right, and the way to an endpoint."""

    permissions: ClassVar = dict.fromkeys(("GET", "POST", "PATCH", "DELETE"), "webhooks:write")

    def find(self, endpoint_id: UUID) -> Endpoint:
        """An endpoint of the caller's tenant. Raises: NotFound."""
        rows = self.of_tenant(Endpoint.objects.filter(pk=endpoint_id, deleted_at=None))
        found: Endpoint | None = rows.first()
        if found is None:
            raise NotFound("Webhook não encontrado.")
        return found


class EndpointListView(_WebhookView):
    scoped = False  # an address is looked up outside every transaction

    @describe(EndpointShape, many=True, query=Query)
    def get(self, request: Request) -> Response:
        """The endpoints, the newest first."""
        query = self.read_query(Query)
        with self.scope():
            rows = self.of_tenant(Endpoint.objects.filter(deleted_at=None))
            return self.answer_page(rows, query, endpoint_json, descending=True)

    @describe(SecretEndpointShape, body=EndpointBody, code=201)
    def post(self, request: Request) -> Response:
        """Make an endpoint. Its secret is in this answer and in no other."""
        body = self.read_body(EndpointBody)
        if self.tenant_id is None:
            raise exceptions.PermissionDenied
        check_address(body.url)
        with self.scope():
            endpoint, secret = create_endpoint(
                actor=self.user, tenant_id=self.tenant_id, url=body.url, description=body.description,
                events=body.events, enabled=body.enabled, now=timezone.now(),
            )  # fmt: skip
            endpoint.refresh_from_db()
            return answer(endpoint_json(endpoint, secret=secret), code=status.HTTP_201_CREATED)


class EndpointView(_WebhookView):
    scoped = False

    @describe(EndpointShape)
    def get(self, request: Request, endpoint_id: UUID) -> Response:
        """One endpoint."""
        with self.scope():
            return answer(endpoint_json(self.find(endpoint_id)))

    @describe(EndpointShape, body=EndpointChanges)
    def patch(self, request: Request, endpoint_id: UUID) -> Response:
        """Change an endpoint. `enabled: true` lets what waited for it leave."""
        with self.scope():
            self.find(endpoint_id)
        body = self.read_body(EndpointChanges)
        if body.url is not None:
            check_address(body.url)
        with self.scope():
            endpoint = change_endpoint(
                actor=self.user, endpoint=self.find(endpoint_id), url=body.url, description=body.description,
                events=body.events, enabled=body.enabled, now=timezone.now(),
            )  # fmt: skip
            endpoint.refresh_from_db()
            return answer(endpoint_json(endpoint))

    @describe(code=204)
    def delete(self, request: Request, endpoint_id: UUID) -> Response:
        """Take an endpoint out of use. What waits for it is not sent."""
        with self.scope():
            delete_endpoint(actor=self.user, endpoint=self.find(endpoint_id), now=timezone.now())
        return Response(status=status.HTTP_204_NO_CONTENT)


class RotateView(_WebhookView):
    @describe(SecretEndpointShape)
    def post(self, request: Request, endpoint_id: UUID) -> Response:
        """Give an endpoint a new secret. For 24 hours the one before it signs too."""
        endpoint, secret = rotate_secret(actor=self.user, endpoint=self.find(endpoint_id), now=timezone.now())
        endpoint.refresh_from_db()
        return answer(endpoint_json(endpoint, secret=secret))


class TestView(_WebhookView):
    @describe(DeliveryShape, code=202)
    def post(self, request: Request, endpoint_id: UUID) -> Response:
        """Send an endpoint a `webhook.test`; the log says what came of it."""
        delivery = send_test(actor=self.user, endpoint=self.find(endpoint_id), now=timezone.now())
        return answer(delivery_json(delivery), code=status.HTTP_202_ACCEPTED)


class ReplayView(_WebhookView):
    @describe(ReplayedShape, body=ReplayBody, code=202)
    def post(self, request: Request, endpoint_id: UUID) -> Response:
        """Send again what happened in a period, and what was missed in it; at most 5000 events a call."""
        endpoint, body = self.find(endpoint_id), self.read_body(ReplayBody)
        if body.until <= body.since:
            raise ValidationFailed([{"field": "to", "message": "O fim deve vir depois do início."}])
        done = replay_period(
            actor=self.user, endpoint=endpoint, since=body.since, until=body.until, events=body.events,
            now=timezone.now(), after=body.after,
        )  # fmt: skip
        at, last = done.last or (None, None)
        shown = {"replayed": done.count, "nextFrom": iso(at), "nextAfter": str(last) if last else None}
        return answer(shown, code=status.HTTP_202_ACCEPTED)


class DeliveryListView(_WebhookView):
    @describe(DeliveryShape, many=True, query=DeliveryQuery)
    def get(self, request: Request, endpoint_id: UUID) -> Response:
        """The log of an endpoint, the newest first, each delivery with all its tries; kept for 30 days."""
        query = self.read_query(DeliveryQuery)
        if query.event is not None and query.event not in (*EVENTS, TEST_EVENT):
            raise ValidationFailed([{"field": "event", "message": "Evento desconhecido."}])
        rows = Delivery.objects.filter(endpoint=self.find(endpoint_id))
        if query.status is not None:
            rows = rows.filter(status=query.status)
        if query.event is not None:
            rows = rows.filter(type=query.event)
        rows = self.of_tenant(rows).select_related("event").prefetch_related("log")
        return self.answer_page(rows, query, delivery_json, descending=True)


class DeliveryReplayView(_WebhookView):
    @describe(DeliveryShape, code=202)
    def post(self, request: Request, delivery_id: UUID) -> Response:
        """Send one delivery again, with the same id."""
        rows = self.of_tenant(Delivery.objects.filter(pk=delivery_id, endpoint__deleted_at=None))
        found: Delivery | None = rows.select_related("endpoint", "event").first()
        if found is None:
            raise NotFound("Entrega não encontrada.")
        replayed = replay_delivery(actor=self.user, delivery=found, now=timezone.now())
        return answer(delivery_json(replayed), code=status.HTTP_202_ACCEPTED)
