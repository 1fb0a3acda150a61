"""The back office's site: Django admin with the unfold theme."""

from __future__ import annotations

from django.contrib.admin.apps import AdminConfig
from unfold.sites import UnfoldAdminSite


class BackOfficeConfig(AdminConfig):
    default_site = "leadengine.admin_site.BackOffice"


class BackOffice(UnfoldAdminSite):
    """Supervisors and admins see their tenant; superusers see all."""
