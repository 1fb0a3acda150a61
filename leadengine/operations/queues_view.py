"""The queues over HTTP, in the words of RabbitMQ's management interface: /api/queues for whoever has API_KEY.

The desk has a list of its own under the same address, of where tickets wait. Who sends the operator's key, or a name
and a password, asks for these; everybody else for that one.
"""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponseBase
from django.utils import timezone
from django.views.decorators.csrf import csrf_exempt
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from leadengine.accounts.authentication import IsOperator, OperatorAuthentication, password_of
from leadengine.accounts.operator_key import is_operator_key
from leadengine.operations.queues import QueueState, find_queue, list_queues, purge_queue
from tickets.api.queues import QueueListView as DeskQueueListView


class QueueName:
    """A path part that is a task queue's name: those have a dot, ids of the desk's queues have none."""

    regex = r"[a-z]+(?:\.[a-z]+)+"

    def to_python(self, value: str) -> str:
        return value

    def to_url(self, value: str) -> str:
        return value


@extend_schema(exclude=True)
class OperatorView(APIView):
    """For API_KEY only, whatever tenant it acts in elsewhere."""

    authentication_classes = (OperatorAuthentication,)
    permission_classes = (IsOperator,)
    metadata_class = None


class QueueListView(OperatorView):
    def get(self, request: Request) -> Response:
        """All queues, as a bare list."""
        return Response([_json(state) for state in list_queues()])


class QueueView(OperatorView):
    def get(self, request: Request, queue: str) -> Response:
        """One queue."""
        return Response(_json(find_queue(queue)))


class QueueContentsView(OperatorView):
    def delete(self, request: Request, queue: str) -> Response:
        """Empty a queue. No event and no message is lost by it."""
        return Response({"purged": purge_queue(name=queue, now=timezone.now())})


@csrf_exempt  # each of the two views decides by itself
def queues_by_caller(request: HttpRequest) -> HttpResponseBase:
    """The task queues for the operator, the desk's queues for people and their keys."""
    is_operator = is_operator_key((request.headers.get("X-API-Key") or "").strip())
    if is_operator or password_of(request.headers.get("Authorization")) is not None:
        return QueueListView.as_view()(request)
    return DeskQueueListView.as_view()(request)


def _json(state: QueueState) -> dict[str, Any]:
    return {
        "name": state.name,
        "vhost": "/",
        "messages": state.messages,
        "messages_ready": state.ready,
        "consumers": state.consumers,
    }
