"""The back office: Django admin with the unfold theme (spec/tickets-leads.md section 13).

`site` is the door and the scope of every screen, `base` what the screens inherit, `display` how values look, `filters`
the list filters, `navigation` the sidebar. The screens themselves are the `admin.py` of each app.
"""

from __future__ import annotations

from django.contrib.admin.apps import AdminConfig


class BackOfficeConfig(AdminConfig):
    default_site = "leadengine.admin_site.site.BackOffice"
