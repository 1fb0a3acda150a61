"""The signed-in person, for pages and logs."""

from __future__ import annotations

from collections.abc import Callable
from zoneinfo import ZoneInfo

import structlog
from django.http import HttpRequest, HttpResponseBase
from django.utils import timezone, translation


class AccountMiddleware:
    """Shows times in the tenant's zone and pages in the user's language, and names both in the logs."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        user = request.user
        if not user.is_authenticated:
            return self.get_response(request)
        if user.locale:
            translation.activate(user.locale)
            request.LANGUAGE_CODE = user.locale
        zone = ZoneInfo(user.tenant.timezone) if user.tenant else timezone.get_default_timezone()
        names = {"user_id": str(user.pk), "tenant": user.tenant.slug if user.tenant else ""}
        with timezone.override(zone), structlog.contextvars.bound_contextvars(**names):
            return self.get_response(request)
