"""Addresses of pages and fragments about connections."""

from __future__ import annotations

from django.urls import path

from whatsapp import views

urlpatterns = [path("inbox/silent-lines/", views.silent_lines, name="silent-lines")]
