"""Addresses of connections and of the webhook ledger."""

from __future__ import annotations

from django.urls import path

from whatsapp.api.instances import InstanceListView, InstanceView, LineListView
from whatsapp.api.ledger import ClaimView, EventListView, EventView, ReprocessView

_HERE = "api/integrations/whatsapp"

urlpatterns = [
    path(f"{_HERE}/instances", InstanceListView.as_view(), name="api-instances"),
    path(f"{_HERE}/instances/<str:instance_id>", InstanceView.as_view(), name="api-instance"),
    path(f"{_HERE}/lines", LineListView.as_view(), name="api-lines"),
    path(f"{_HERE}/webhook-events", EventListView.as_view(), name="api-webhook-events"),
    path(f"{_HERE}/webhook-events/<uuid:event_id>", EventView.as_view(), name="api-webhook-event"),
    path(
        f"{_HERE}/webhook-events/<uuid:event_id>/reprocess",
        ReprocessView.as_view(),
        name="api-webhook-event-reprocess",
    ),
    path(f"{_HERE}/webhook-events/<uuid:event_id>/claim", ClaimView.as_view(), name="api-webhook-event-claim"),
]
