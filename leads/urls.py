"""Addresses under /api/ about contacts and leads."""

from __future__ import annotations

from django.urls import path

from leads.api import ContactListView, ContactView, LeadListView, LeadView, StageListView

urlpatterns = [
    path("api/contacts", ContactListView.as_view(), name="api-contacts"),
    path("api/contacts/<uuid:contact_id>", ContactView.as_view(), name="api-contact"),
    path("api/leads", LeadListView.as_view(), name="api-leads"),
    path("api/leads/<uuid:lead_id>", LeadView.as_view(), name="api-lead"),
    path("api/pipeline-stages", StageListView.as_view(), name="api-pipeline-stages"),
]
