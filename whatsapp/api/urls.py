"""Addresses of the doors that name an instance or a contact, and of the files of messages."""

from __future__ import annotations

from django.urls import path

from whatsapp.api.doors import ContactDoor, InstanceDoor
from whatsapp.api.media import MediaRetryView, MediaView

urlpatterns = [
    path(
        "api/integrations/whatsapp/instances/<str:instance_id>/messages", InstanceDoor.as_view(), name="instance-door"
    ),
    path("api/contacts/<uuid:contact_id>/messages", ContactDoor.as_view(), name="contact-door"),
    path("api/integrations/whatsapp/media/<uuid:media_id>", MediaView.as_view(), name="api-media"),
    path("api/integrations/whatsapp/media/<uuid:media_id>/retry", MediaRetryView.as_view(), name="api-media-retry"),
]
