"""Addresses under /api/ about people."""

from __future__ import annotations

from django.urls import path

from leadengine.accounts.api.people import LoginView, LogoutView, MeView, PasswordView, UserListView

urlpatterns = [
    path("api/auth/login", LoginView.as_view(), name="api-login"),
    path("api/auth/logout", LogoutView.as_view(), name="api-logout"),
    path("api/auth/me", MeView.as_view(), name="api-me"),
    path("api/auth/password", PasswordView.as_view(), name="api-password"),
    path("api/users", UserListView.as_view(), name="api-users"),
]
