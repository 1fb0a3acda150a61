"""Addresses of the TurboZap routes: at the root, as its programs know them, and the same under /api/."""

from __future__ import annotations

from django.urls import URLPattern, path, register_converter

from whatsapp.api import turbozap
from whatsapp.api.turbozap_base import NotSupportedView
from whatsapp.api.turbozap_keys import KeyListView, KeyView
from whatsapp.api.turbozap_messages import MediaView, TextView


class Missing:
    """The kinds of things that TurboZap does and we do not."""

    regex = "message|group|contact|presence|profile|call"

    def to_python(self, value: str) -> str:
        return value

    def to_url(self, value: str) -> str:
        return value


register_converter(Missing, "turbozap_missing")


def _routes(prefix: str) -> list[URLPattern]:
    one = f"{prefix}instance/<str:instance>"
    return [
        path(f"{prefix}instance/create", turbozap.CreateView.as_view(), name="turbozap-create"),
        path(f"{prefix}instance/list", turbozap.ListView.as_view(), name="turbozap-list"),
        path(one, turbozap.InstanceView.as_view(), name="turbozap-instance"),
        path(f"{one}/status", turbozap.StatusView.as_view(), name="turbozap-status"),
        path(f"{one}/qrcode", turbozap.QrCodeView.as_view(), name="turbozap-qrcode"),
        path(f"{one}/connect", turbozap.ConnectView.as_view(), name="turbozap-connect"),
        path(f"{one}/restart", turbozap.RestartView.as_view(), name="turbozap-restart"),
        path(f"{one}/logout", turbozap.LogoutView.as_view(), name="turbozap-logout"),
        path(f"{one}/name", turbozap.RenameView.as_view(), name="turbozap-name"),
        path(f"{prefix}message/<str:instance>/text", TextView.as_view(), name="turbozap-text"),
        path(f"{prefix}message/<str:instance>/media", MediaView.as_view(), name="turbozap-media"),
        path(f"{prefix}<turbozap_missing:kind>/<path:rest>", NotSupportedView.as_view(), name="turbozap-no"),
    ]


urlpatterns = [
    *_routes(""),
    *_routes("api/"),
    path("api/user/apikeys", KeyListView.as_view(), name="turbozap-keys"),
    path("api/user/apikeys/<uuid:key_id>", KeyView.as_view(), name="turbozap-key"),
]
