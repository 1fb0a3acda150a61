"""The gate of every page and fragment: a signed-in member, their scope and rights, and one way to refuse."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, wraps
from typing import Any, overload

from django.contrib.auth.views import redirect_to_login
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.utils.cache import patch_vary_headers
from django.views.decorators.cache import never_cache

from leadengine.accounts.models import User
from leadengine.accounts.scopes import user_scope
from leadengine.envelope import error_body, sentence_of
from leadengine.errors import DomainError
from tickets.policy import Viewer, load_viewer


class DeskRequest(HttpRequest):
    """A request that passed the gate: `user` is a member of a tenant, `viewer` their rights as of now."""

    user: User
    viewer: Viewer
    request_id: str


Page = Callable[..., HttpResponse]


@overload
def desk(view: Page) -> Callable[..., HttpResponse]: ...
@overload
def desk(*, scoped: bool) -> Callable[[Page], Callable[..., HttpResponse]]: ...
def desk(view: Page | None = None, *, scoped: bool = True) -> Any:
    """Let members of a tenant in, in their scope and one transaction; others sign in, or go to the back office.

    A fragment without a session is 401: the page shows its login over what is there. A DomainError rolls back and
    becomes the error envelope for scripts, the error page for people.

    `scoped=False` opens neither scope nor transaction: for a view that calls a broker. It reads inside `user_scope`.
    """
    if view is None:
        return partial(_gate, scoped=scoped)
    return _gate(view, scoped=True)


def _gate(view: Page, *, scoped: bool) -> Callable[..., HttpResponse]:
    @never_cache
    @wraps(view)
    def gate(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        user = request.user
        if not isinstance(user, User) or not user.is_active or (user.tenant and not user.tenant.is_active):
            return HttpResponse(status=401) if by_script(request) else redirect_to_login(request.get_full_path())
        if user.tenant_id is None:
            return redirect("admin:index")
        try:
            with user_scope(user):
                request.viewer = load_viewer(user)  # type: ignore[attr-defined]
                if scoped:
                    response = view(request, *args, **kwargs)
            if not scoped:
                response = view(request, *args, **kwargs)
        except DomainError as error:
            response = refuse(request, error)
        patch_vary_headers(response, ["HX-Request"])
        return response

    return gate


def by_script(request: HttpRequest) -> bool:
    """Whether a script asks for a part of the page, not a person for a page."""
    return bool(request.headers.get("HX-Request")) or request.headers.get("X-Requested-With") == "fetch"


def refuse(request: HttpRequest, error: DomainError) -> HttpResponse:
    """A refusal as the envelope, or as a page in the same words."""
    request_id = getattr(request, "request_id", "")
    response: HttpResponse
    if by_script(request):
        response = JsonResponse(error_body(error.code, error.message, error.details, request_id), status=error.status)
    else:
        template = f"{error.status}.html" if error.status in {403, 404, 413, 429, 503} else "400.html"
        response = render(
            request, template, {"message": sentence_of(error), "request_id": request_id}, status=error.status
        )
    for name, value in error.headers.items():
        response[name] = value
    if "retryAfter" in error.details:
        response["Retry-After"] = str(error.details["retryAfter"])
    return response
