"""REST of what the desk is set up with: queues and close reasons."""

from __future__ import annotations

from typing import ClassVar

from rest_framework.request import Request
from rest_framework.response import Response

from leadengine.accounts.api import Query, ScopedAPIView, describe
from tickets.models import CloseReason, Queue
from tickets.serializers import CloseReasonShape, QueueShape, close_reason_json, queue_json


class QueueListView(ScopedAPIView):
    permissions: ClassVar = {"GET": "tickets:read"}

    @describe(QueueShape, many=True, query=Query)
    def get(self, request: Request) -> Response:
        """The queues of the tenant, in their order."""
        queues = self.of_tenant(Queue.objects.all())
        return self.answer_page(queues, self.read_query(Query), queue_json, keys=("order_index", "id"))


class CloseReasonListView(ScopedAPIView):
    permissions: ClassVar = {"GET": "tickets:read"}

    @describe(CloseReasonShape, many=True, query=Query)
    def get(self, request: Request) -> Response:
        """Why tickets may end, in their order."""
        reasons = self.of_tenant(CloseReason.objects.all())
        return self.answer_page(reasons, self.read_query(Query), close_reason_json, keys=("order_index", "id"))
