"""Login, logout and the account page (spec/inbox.md section 16), and the error pages."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from django.conf import settings
from django.contrib import messages
from django.contrib.auth import login, logout, update_session_auth_hash
from django.contrib.auth.decorators import login_required
from django.contrib.auth.forms import PasswordChangeForm
from django.http import HttpRequest, HttpResponse, HttpResponseServerError
from django.middleware.csrf import get_token
from django.shortcuts import redirect, render, resolve_url
from django.template.loader import render_to_string
from django.utils import timezone, translation
from django.utils.http import url_has_allowed_host_and_scheme
from django.utils.translation import gettext as _
from django.utils.translation import ngettext
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST

from leadengine.accounts.forms import (
    DENSITIES,
    NOTIFY,
    SEND_KEYS,
    THEMES,
    DeskStateForm,
    LoginForm,
    PreferencesForm,
    ProfileForm,
)
from leadengine.accounts.models import User
from leadengine.accounts.scopes import user_scope
from leadengine.accounts.services import TooManyFailures, UnableToLogIn, authenticate_login, write_audit


@never_cache
@require_http_methods(["GET", "POST"])
def log_in(request: HttpRequest) -> HttpResponse:
    """The login page; for the dialog of a page whose session ended, only its form."""
    dialog = request.headers.get("X-Requested-With") == "fetch"
    target = _safe_target(request)
    if request.method == "GET" and request.user.is_authenticated and not dialog:
        return redirect(target)
    form, refusal, status = LoginForm(request.POST or None), "", 200
    if request.method == "POST":
        user, refusal, status = _authenticated(request, form)
        if user is not None:
            _start_session(request, user, remember=bool(form.cleaned_data["remember"]))
            if dialog:
                return HttpResponse(status=204, headers={"X-CSRFToken": get_token(request), "X-User": str(user.pk)})
            return redirect(target)
    context = {"form": form, "refusal": refusal, "next": target, "dialog": dialog, "languages": settings.LANGUAGES}
    response = render(request, "accounts/_login_form.html" if dialog else "accounts/login.html", context, status=status)
    if status == TooManyFailures.status:
        response["Retry-After"] = str(getattr(form, "wait", settings.LOGIN_LOCK_MINUTES * 60))
    return response


@require_POST
def log_out(request: HttpRequest) -> HttpResponse:
    """End the session and go to the login."""
    if isinstance(request.user, User):
        _audit(request, request.user, "logout")
    logout(request)
    return redirect("login")


@never_cache
@login_required
@require_http_methods(["GET", "POST"])
def account(request: HttpRequest) -> HttpResponse:
    """Name, language, password and preferences; each card is a form of its own."""
    user = request.user
    assert isinstance(user, User)  # noqa: S101 - login_required
    part = request.POST.get("part", "")
    forms: dict[str, Any] = {
        "profile": ProfileForm(request.POST if part == "profile" else None, instance=user),
        "preferences": PreferencesForm(request.POST if part == "preferences" else None),
        "password": PasswordChangeForm(user, request.POST if part == "password" else None),
    }
    form = forms.get(part)
    if form is not None and form.is_valid():
        if part == "profile":
            _save_profile(request, form)
        elif part == "preferences":
            _save_preferences(request, form)
        else:
            _save_password(request, form)
        return redirect("account")
    context = {
        **forms, "chosen": PreferencesForm.of(user), "themes": THEMES, "densities": DENSITIES, "send_keys": SEND_KEYS,
        "notify": NOTIFY, "languages": settings.LANGUAGES, "locale": user.locale or translation.get_language(),
    }  # fmt: skip
    return render(request, "accounts/account.html", context, status=200 if form is None else 400)


@login_required
@require_POST
def desk_state(request: HttpRequest) -> HttpResponse:
    """Remember the list's width or the quick choice of the theme."""
    user, form = request.user, DeskStateForm(request.POST)
    assert isinstance(user, User)  # noqa: S101 - login_required
    if not form.is_valid():
        return HttpResponse(status=400)
    user.preferences |= {name: value for name, value in form.cleaned_data.items() if value}
    user.save(update_fields=["preferences", "updated_at"])
    return HttpResponse(status=204)


@require_POST
def language(request: HttpRequest) -> HttpResponse:
    """Choose the language of the pages before the login; after it, the account decides."""
    chosen = request.POST.get("language", "")
    response = redirect(f"{resolve_url(settings.LOGIN_URL)}?{urlencode({'next': _safe_target(request)})}")
    if chosen in dict(settings.LANGUAGES):
        response.set_cookie(
            settings.LANGUAGE_COOKIE_NAME,
            chosen,
            max_age=31_536_000,
            samesite="Lax",
            secure=settings.SESSION_COOKIE_SECURE,
        )
    return response


def not_found(request: HttpRequest, *_why: object, **_more: object) -> HttpResponse:
    """404."""
    return error_page(request, 404)


def forbidden(request: HttpRequest, *_why: object, **_more: object) -> HttpResponse:
    """403, also of the CSRF check."""
    return error_page(request, 403)


def bad_request(request: HttpRequest, *_why: object, **_more: object) -> HttpResponse:
    """400."""
    return error_page(request, 400)


def server_error(request: HttpRequest) -> HttpResponse:
    """500: nothing here may fail again, so no context processor and no database."""
    text = render_to_string("500.html", {"request_id": getattr(request, "request_id", "")})
    return HttpResponseServerError(text)


def error_page(request: HttpRequest, status: int) -> HttpResponse:
    """A page of our own with the request's id, in the reader's language."""
    return render(request, f"{status}.html", {"request_id": getattr(request, "request_id", "")}, status=status)


def _authenticated(request: HttpRequest, form: LoginForm) -> tuple[User | None, str, int]:
    if not form.is_valid():
        return None, _("Wrong e-mail or password."), 401
    try:
        user = authenticate_login(
            email=form.cleaned_data["email"], password=form.cleaned_data["password"],
            address=request.META.get("REMOTE_ADDR", ""), now=timezone.now(),
        )  # fmt: skip
    except UnableToLogIn:
        return None, _("Wrong e-mail or password."), 401
    except TooManyFailures as error:
        minutes = max(1, -(-int(error.details["retryAfter"]) // 60))
        form.wait = error.details["retryAfter"]  # type: ignore[attr-defined]
        text = ngettext(
            "Too many attempts. Try again in %(n)d minute.", "Too many attempts. Try again in %(n)d minutes.", minutes
        )
        return None, text % {"n": minutes}, error.status
    return user, "", 200


def _start_session(request: HttpRequest, user: User, *, remember: bool) -> None:
    login(request, user, backend="django.contrib.auth.backends.ModelBackend")
    request.session.set_expiry(settings.SESSION_COOKIE_AGE if remember else settings.SESSION_HOURS * 3600)
    _audit(request, user, "login")


def _safe_target(request: HttpRequest) -> str:
    """Where to go after the login: on this host only."""
    target = request.POST.get("next") or request.GET.get("next") or ""
    safe = url_has_allowed_host_and_scheme(target, {request.get_host()}, require_https=request.is_secure())
    return target if safe else settings.LOGIN_REDIRECT_URL


def _save_profile(request: HttpRequest, form: ProfileForm) -> None:
    form.save()
    translation.activate(form.cleaned_data["locale"])
    messages.success(request, _("Your profile was saved."))


def _save_preferences(request: HttpRequest, form: PreferencesForm) -> None:
    user = request.user
    assert isinstance(user, User)  # noqa: S101 - login_required
    user.preferences |= form.cleaned_data
    user.save(update_fields=["preferences", "updated_at"])
    messages.success(request, _("Your preferences were saved."))


def _save_password(request: HttpRequest, form: PasswordChangeForm) -> None:
    """A new password ends every other session: they are signed with the old hash."""
    user = form.save()
    update_session_auth_hash(request, user)
    _audit(request, user, "password.changed")
    messages.success(request, _("Your password was changed. Other sessions were ended."))


def _audit(request: HttpRequest, user: User, action: str) -> None:
    if user.tenant_id is None:
        return
    with user_scope(user):
        write_audit(
            tenant_id=user.tenant_id, actor=user, action=action, target=user, ip=request.META.get("REMOTE_ADDR"),
            request_id=getattr(request, "request_id", ""),
        )  # fmt: skip
