"""Addresses of the pages that belong to people: login, logout, account."""

from __future__ import annotations

from django.urls import path

from leadengine.accounts import views

urlpatterns = [
    path("login/", views.log_in, name="login"),
    path("logout/", views.log_out, name="logout"),
    path("language/", views.language, name="language"),
    path("account/", views.account, name="account"),
    path("account/desk/", views.desk_state, name="desk-state"),
]
