"""Addresses of the doors that name an instance or a contact."""

from __future__ import annotations

from django.urls import path

from whatsapp.api.doors import ContactDoor, InstanceDoor

urlpatterns = [
    path(
        "api/integrations/whatsapp/instances/<str:instance_id>/messages", InstanceDoor.as_view(), name="instance-door"
    ),
    path("api/contacts/<uuid:contact_id>/messages", ContactDoor.as_view(), name="contact-door"),
]
