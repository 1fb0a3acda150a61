"""Every address of the product."""

from __future__ import annotations

from django.contrib import admin
from django.urls import include, path
from drf_spectacular.views import SpectacularAPIView

from leadengine.accounts.api import UnknownRouteView

admin.autodiscover()  # the screens of all apps

urlpatterns = [
    path("admin/operations/", include("leadengine.operations.urls_admin")),  # before the site, which takes all below it
    path("admin/", admin.site.urls),
    path("", include("leadengine.operations.urls")),
    path("", include("leadengine.accounts.urls_pages")),
    path("", include("tickets.urls")),
    path("", include("leadengine.accounts.urls")),
    path("", include("leadengine.webhooks.urls")),
    path("", include("leads.urls")),
    path("", include("tickets.api.urls")),
    path("", include("tickets.api.urls_messages")),
    path("", include("whatsapp.urls_pages")),
    path("", include("whatsapp.api.urls")),
    path("", include("whatsapp.api.urls_ledger")),
    path("", include("whatsapp.api.urls_turbozap")),
    path("api/schema/", SpectacularAPIView.as_view(), name="api-schema"),
    path("api/<path:path>", UnknownRouteView.as_view(), name="api-unknown"),  # the last one
]

handler400 = "leadengine.accounts.views.bad_request"
handler403 = "leadengine.accounts.views.forbidden"
handler404 = "leadengine.accounts.views.not_found"
handler500 = "leadengine.accounts.views.server_error"
