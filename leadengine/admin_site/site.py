"""The door of the back office, and the one place where its screens get their scope."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from typing import Any, ClassVar
from uuid import UUID

from django.contrib.auth import REDIRECT_FIELD_NAME, logout
from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase, HttpResponseNotAllowed
from django.shortcuts import redirect
from django.template.response import SimpleTemplateResponse
from django.urls import URLPattern, URLResolver, path
from django.utils.translation import gettext_lazy as _
from unfold.sites import UnfoldAdminSite

from leadengine.accounts.models import User
from leadengine.accounts.scopes import tenant_scope, user_scope
from leadengine.admin_site.display import shown_to

View = Callable[..., HttpResponseBase]
_CHOSEN = "back_office_tenant"


class BackOffice(UnfoldAdminSite):
    """Supervisors and admins see their tenant; a superuser sees all of them, or the one they chose."""

    index_title = _("Dashboard")
    # Django's own screens that we do not offer: the password has a page of its own (audited), and nothing here has
    # an address on another site.
    left_out: ClassVar = {"password_change", "password_change_done", "view_on_site"}

    def has_permission(self, request: HttpRequest) -> bool:
        user = request.user
        return bool(user.is_active and user.is_staff and (user.tenant is None or user.tenant.is_active))

    def admin_view(self, view: View, cacheable: bool = False) -> View:
        """Let nobody in but staff, and run the view, its rendering included, inside the scope of the person.

        Every screen goes through here, Django's own and those that an app adds, so none can forget its scope. A view
        that calls a broker says `outside`: no transaction may be open then, so it opens the scope itself to read.
        """
        outside = getattr(view, "outside", False)

        @wraps(view)
        def scoped(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
            with nullcontext() if outside else scope_of(request), shown_to(person(request)):
                response = view(request, *args, **kwargs)
                # A template or a stream that is evaluated later would find no rows.
                if isinstance(response, SimpleTemplateResponse):
                    response.render()
                elif response.streaming:
                    response.streaming_content = list(response)  # type: ignore[attr-defined]
                return response

        inner: View = super().admin_view(scoped, cacheable)

        @wraps(view)
        def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
            if self.has_permission(request):
                return inner(request, *args, **kwargs)
            if request.user.is_authenticated:
                raise PermissionDenied
            return redirect_to_login(request.get_full_path())

        return guarded

    def login(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """There is one login page, the product's."""
        return redirect_to_login(request.GET.get(REDIRECT_FIELD_NAME) or "/admin/")

    def logout(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        logout(request)
        return redirect_to_login("/admin/")

    def get_urls(self) -> list[URLPattern | URLResolver]:
        choose = path("tenant/", self.admin_view(self.choose_tenant), name="choose_tenant")
        return [choose, *(url for url in super().get_urls() if getattr(url, "name", None) not in self.left_out)]

    def choose_tenant(self, request: HttpRequest) -> HttpResponse:
        """`?to=<id>` narrows a superuser's view to one tenant, without it all are shown again."""
        if not request.user.is_superuser:
            raise Http404
        try:
            request.session[_CHOSEN] = str(UUID(request.GET["to"])) if request.GET.get("to") else ""
        except ValueError as error:
            raise Http404 from error
        return redirect("admin:index")


def person(request: HttpRequest) -> User:
    """The member of staff who is signed in."""
    if not isinstance(request.user, User):
        raise PermissionDenied
    return request.user


def tenant_of(request: HttpRequest) -> UUID | None:
    """The tenant whose rows this request may see; None for a superuser who looks at all of them."""
    user = person(request)
    if not user.is_superuser:
        return user.tenant_id
    chosen = request.session.get(_CHOSEN)
    return UUID(chosen) if chosen else None


def scope_of(request: HttpRequest) -> AbstractContextManager[None]:
    """Tenant scope for staff and for a superuser who chose a tenant, service scope for one who did not."""
    user, tenant_id = person(request), tenant_of(request)
    if user.is_superuser and tenant_id is not None:
        return tenant_scope(tenant_id)
    return user_scope(user)
