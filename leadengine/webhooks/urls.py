"""Addresses under /api/ about outgoing webhooks."""

from __future__ import annotations

from django.urls import path

from leadengine.webhooks.api import (
    DeliveryListView,
    DeliveryReplayView,
    EndpointListView,
    EndpointView,
    ReplayView,
    RotateView,
    TestView,
)

BASE = "api/webhooks/endpoints"
ONE = f"{BASE}/<uuid:endpoint_id>"

urlpatterns = [
    path(BASE, EndpointListView.as_view(), name="api-webhooks"),
    path(ONE, EndpointView.as_view(), name="api-webhook"),
    path(f"{ONE}/rotate-secret", RotateView.as_view(), name="api-webhook-rotate"),
    path(f"{ONE}/test", TestView.as_view(), name="api-webhook-test"),
    path(f"{ONE}/replay", ReplayView.as_view(), name="api-webhook-replay"),
    path(f"{ONE}/deliveries", DeliveryListView.as_view(), name="api-webhook-deliveries"),
    path("api/webhooks/deliveries/<uuid:delivery_id>/replay", DeliveryReplayView.as_view(), name="api-delivery-replay"),
]
