"""Addresses of the webhook ledger."""

from __future__ import annotations

from django.urls import path

from whatsapp.api.ledger import ClaimView, EventListView, EventView, ReprocessView

_HERE = "api/integrations/whatsapp"

urlpatterns = [
    path(f"{_HERE}/webhook-events", EventListView.as_view(), name="api-webhook-events"),
    path(f"{_HERE}/webhook-events/<uuid:event_id>", EventView.as_view(), name="api-webhook-event"),
    path(
        f"{_HERE}/webhook-events/<uuid:event_id>/reprocess",
        ReprocessView.as_view(),
        name="api-webhook-event-reprocess",
    ),
    path(f"{_HERE}/webhook-events/<uuid:event_id>/claim", ClaimView.as_view(), name="api-webhook-event-claim"),
]
