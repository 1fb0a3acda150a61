"""Addresses under /api/ about contacts and leads."""

from __future__ import annotations

from django.urls import path

from leads.api import (
    ContactListView,
    ContactView,
    LeadListView,
    LeadView,
    MergeListView,
    MergeUndoView,
    MergeView,
    StageListView,
)

urlpatterns = [
    path("api/contacts", ContactListView.as_view(), name="api-contacts"),
    path("api/contacts/merge", MergeView.as_view(), name="api-contact-merge"),
    path("api/contacts/merges", MergeListView.as_view(), name="api-contact-merges"),
    path("api/contacts/merges/<uuid:merge_id>/undo", MergeUndoView.as_view(), name="api-contact-merge-undo"),
    path("api/contacts/<uuid:contact_id>", ContactView.as_view(), name="api-contact"),
    path("api/leads", LeadListView.as_view(), name="api-leads"),
    path("api/leads/<uuid:lead_id>", LeadView.as_view(), name="api-lead"),
    path("api/pipeline-stages", StageListView.as_view(), name="api-pipeline-stages"),
]
