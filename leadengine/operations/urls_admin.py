"""Pages of the back office that are no model's."""

from __future__ import annotations

from django.contrib import admin
from django.urls import path

from leadengine.operations.page import operations, runbook

urlpatterns = [
    path("", admin.site.admin_view(operations), name="operations"),
    path("runbooks/<slug:name>/", admin.site.admin_view(runbook), name="runbook"),
]
