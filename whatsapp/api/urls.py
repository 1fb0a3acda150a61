"""Addresses of connections, of the doors that name an instance or a contact, and of the files of messages."""

from __future__ import annotations

from django.urls import path

from whatsapp.api import baileys, baileys_chats
from whatsapp.api.doors import ContactDoor, InstanceDoor
from whatsapp.api.instances import InstanceListView, InstanceView, LineListView
from whatsapp.api.instances_actions import (
    ConnectView,
    DisconnectView,
    GoneView,
    PairView,
    ReconnectAllView,
    ReleaseView,
)
from whatsapp.api.instances_reading import EventListView, QrPictureView, QrView, StatusView
from whatsapp.api.media import MediaRetryView, MediaView
from whatsapp.api.proxies import ExistsView, GroupListView, MetricsView, PollView
from whatsapp.api.uploads import UploadContentView, UploadsView, UploadView

_HERE = "api/integrations/whatsapp"
_ONE = f"{_HERE}/instances/<str:instance_id>"
_SIMPLE = "api/baileys-simple"
_CONNECTION = f"{_SIMPLE}/connections/<str:connection_id>"
_GONE = {
    "instances/qr": "qr", "instances/qr.png": "qr.png", "instances/pair": "pair", "session/connect": "connect",
    "session/logout": "logout", "session/status": "status",
}  # fmt: skip

urlpatterns = [
    *(path(f"{_HERE}/{old}", GoneView.as_view(), {"was": word}, name="api-gone") for old, word in _GONE.items()),
    path(f"{_HERE}/instances", InstanceListView.as_view(), name="api-instances"),
    path(f"{_HERE}/instances/reconnect-all", ReconnectAllView.as_view(), name="api-instances-reconnect"),
    path(_ONE, InstanceView.as_view(), name="api-instance"),
    path(f"{_ONE}/status", StatusView.as_view(), name="api-instance-status"),
    path(f"{_ONE}/qr", QrView.as_view(), name="api-instance-qr"),
    path(f"{_ONE}/qr.png", QrPictureView.as_view(), name="api-instance-qr-png"),
    path(f"{_ONE}/pair", PairView.as_view(), name="api-instance-pair"),
    path(f"{_ONE}/connect", ConnectView.as_view(), name="api-instance-connect"),
    path(f"{_ONE}/disconnect", DisconnectView.as_view(), name="api-instance-disconnect"),
    path(f"{_ONE}/stop", DisconnectView.as_view(), name="api-instance-stop"),
    path(f"{_ONE}/events", EventListView.as_view(), name="api-instance-events"),
    path(f"{_ONE}/release", ReleaseView.as_view(), name="api-instance-release"),
    path(f"{_ONE}/exists", ExistsView.as_view(), name="api-instance-exists"),
    path(f"{_ONE}/groups", GroupListView.as_view(), name="api-instance-groups"),
    path(f"{_ONE}/metrics", MetricsView.as_view(), name="api-instance-metrics"),
    path(f"{_ONE}/polls", PollView.as_view(), name="poll-door"),
    path(f"{_HERE}/lines", LineListView.as_view(), name="api-lines"),
    path(f"{_ONE}/messages", InstanceDoor.as_view(), name="instance-door"),
    path("api/contacts/<uuid:contact_id>/messages", ContactDoor.as_view(), name="contact-door"),
    path(f"{_HERE}/media/<uuid:media_id>", MediaView.as_view(), name="api-media"),
    path(f"{_HERE}/media/<uuid:media_id>/retry", MediaRetryView.as_view(), name="api-media-retry"),
    path("api/whatsapp/uploads", UploadsView.as_view(), name="api-uploads"),
    path("api/whatsapp/uploads/<uuid:upload_id>", UploadView.as_view(), name="api-upload"),
    path("api/whatsapp/uploads/<uuid:upload_id>/content", UploadContentView.as_view(), name="api-upload-content"),
    path(f"{_SIMPLE}/health", baileys.HealthView.as_view(), name="baileys-health"),
    path(f"{_SIMPLE}/connections", baileys.ConnectionListView.as_view(), name="baileys-connections"),
    path(f"{_SIMPLE}/reconnect-all", baileys.ReconnectAllView.as_view(), name="baileys-reconnect-all"),
    path(_CONNECTION, baileys.ConnectionView.as_view(), name="baileys-connection"),
    path(f"{_CONNECTION}/qr", baileys.QrView.as_view(), name="baileys-qr"),
    path(f"{_CONNECTION}/qr.png", baileys.QrPictureView.as_view(), name="baileys-qr-png"),
    path(f"{_CONNECTION}/info", baileys.InfoView.as_view(), name="baileys-info"),
    path(f"{_CONNECTION}/refresh-qr", baileys.RefreshQrView.as_view(), name="baileys-refresh-qr"),
    path(f"{_CONNECTION}/reconnect", baileys.ReconnectView.as_view(), name="baileys-reconnect"),
    path(f"{_CONNECTION}/abort", baileys.AbortView.as_view(), name="baileys-abort"),
    path(f"{_CONNECTION}/send-message", baileys_chats.SendView.as_view(), name="baileys-send"),
    path(f"{_CONNECTION}/mark-read", baileys_chats.ReadView.as_view(), name="baileys-read"),
    path(f"{_CONNECTION}/finalizar-conversa", baileys_chats.CloseView.as_view(), name="baileys-close"),
]
