"""Addresses of pages and fragments about connections."""

from __future__ import annotations

from django.urls import path

from whatsapp.views import lines, session_actions, sessions

_SESSION = "sessions/<uuid:session_id>/"

urlpatterns = [
    path("inbox/silent-lines/", lines.silent_lines, name="silent-lines"),
    path("sessions/", sessions.sessions, name="sessions"),
    path("sessions/new/", session_actions.new_session, name="session-new"),
    path(_SESSION, sessions.session, name="session"),
    path(_SESSION + "qr/", sessions.session_qr, name="session-qr"),
    path(_SESSION + "renew/", session_actions.renew, name="session-renew"),
    path(_SESSION + "pair/", session_actions.pair, name="session-pair"),
    path(_SESSION + "edit/", session_actions.edit, name="session-edit"),
    *[
        path(f"{_SESSION}{action}/", session_actions.act, {"action": action}, name=f"session-{action}")
        for action in session_actions.ACTIONS
    ],
]
