"""The back office: Django admin with the unfold theme (spec/tickets-leads.md section 13).

`site` is the door and the scope of every screen, `base` what the screens inherit, `display` how values look, `filters`
the list filters, `navigation` the sidebar. The screens themselves are the `admin.py` of each app.
"""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.contrib.admin.apps import SimpleAdminConfig
from django.contrib.admin.checks import check_admin_app, check_dependencies
from django.core import checks


class BackOfficeConfig(SimpleAdminConfig):
    """The screens are read with the addresses (leadengine/urls.py): a third of a process, and workers need none."""

    default_site = "leadengine.admin_site.site.BackOffice"

    def ready(self) -> None:
        checks.register(check_dependencies, checks.Tags.admin)
        checks.register(_check_screens, checks.Tags.admin)


def _check_screens(app_configs: Any, **more: Any) -> list[checks.CheckMessage]:
    admin.autodiscover()
    return check_admin_app(app_configs, **more)
