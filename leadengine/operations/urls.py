"""Addresses for operators: health, readiness, metrics, task queues."""

from __future__ import annotations

from django.urls import path, register_converter

from leadengine import health
from leadengine.operations.metrics_view import metrics
from leadengine.operations.queues_view import QueueContentsView, QueueName, QueueView, queues_by_caller

register_converter(QueueName, "task_queue")
# RabbitMQ names the host `/` before the queue; its `%2F` arrives here decoded.
_BEFORE = ("api/queues/", "api/queues///")

urlpatterns = [
    path("health", health.health, name="health"),
    path("healthz", health.healthz, name="healthz"),
    path("ready", health.ready, name="ready"),
    path("metrics", metrics, name="metrics"),
    path("api/queues", queues_by_caller, name="operator-queues"),
    *[path(f"{before}<task_queue:queue>", QueueView.as_view(), name="operator-queue") for before in _BEFORE],
    *[
        path(f"{before}<task_queue:queue>/contents", QueueContentsView.as_view(), name="operator-queue-contents")
        for before in _BEFORE
    ],
]
