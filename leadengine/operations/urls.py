"""Addresses for operators: health, readiness, metrics."""

from __future__ import annotations

from django.urls import path

from leadengine import health
from leadengine.operations.metrics_view import metrics

urlpatterns = [
    path("health", health.health, name="health"),
    path("healthz", health.healthz, name="healthz"),
    path("ready", health.ready, name="ready"),
    path("metrics", metrics, name="metrics"),
]
