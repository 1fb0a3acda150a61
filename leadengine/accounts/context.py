"""What every page template may use."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest


def page(request: HttpRequest) -> dict[str, Any]:
    """`theme` (light, dark or system) of the signed-in user."""
    user = getattr(request, "user", None)
    preferences = user.preferences if user is not None and user.is_authenticated else {}
    return {"theme": preferences.get("theme", "system")}
