"""People: role, queues, load. Here and not in accounts, because only here a person's queues and tickets are known."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin
from django.contrib.auth.password_validation import validate_password
from django.db.models import Prefetch, QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.html import format_html_join
from django.utils.safestring import SafeString
from django.utils.text import capfirst
from django.utils.translation import gettext_lazy as _
from unfold.widgets import UnfoldAdminPasswordWidget

from leadengine.accounts.models import User
from leadengine.accounts.permissions import Role
from leadengine.accounts.services import reset_password
from leadengine.admin_site.base import BackOfficeAdmin, DialogForm, dialog
from leadengine.admin_site.display import EMPTY, chip, column, moment, status_chip, swatch, when
from leadengine.admin_site.filters import active_or_not, choices_of
from leadengine.admin_site.site import person
from tickets.admin.queues import count_of
from tickets.admin.words import AVAILABILITY, ROLE
from tickets.models import QueueMembership, Ticket
from tickets.models.tickets import LIVE
from tickets.services.queues import save_member


class UserForm(forms.ModelForm):  # type: ignore[type-arg]
    """A person."""

    def clean_email(self) -> str:
        return str(self.cleaned_data["email"]).lower()


class NewUserForm(UserForm):
    """A person with a first password."""

    password = forms.CharField(label=capfirst(_("first password")), widget=UnfoldAdminPasswordWidget, strip=False)

    def clean_password(self) -> str:
        value = str(self.cleaned_data["password"])
        validate_password(value, self.instance)
        return value


class PasswordForm(DialogForm):
    """A new password for somebody else."""

    password = forms.CharField(label=capfirst(_("new password")), widget=UnfoldAdminPasswordWidget, strip=False)

    def clean_password(self) -> str:
        value = str(self.cleaned_data["password"])
        validate_password(value, self.row)
        return value


@admin.register(User)
class UserAdmin(BackOfficeAdmin):
    reads, writes, creates = "users:read", "users:write", True
    editable, once = ("name", "email", "role", "capacity", "is_active"), ("password",)
    labels = {
        "name": _("name"), "email": _("e-mail"), "role": _("role"), "capacity": _("capacity (live tickets)"),
        "is_active": _("active"),
    }  # fmt: skip
    newest = ("name", "pk")
    list_display = ("who", "role_chip", "queues", "load", "presence", "state", "seen")
    list_filter = (
        choices_of("role", _("role"), Role.choices),
        choices_of("availability", _("availability"), User.Availability.choices),
        active_or_not(),
    )
    search_fields = ("name", "email")
    search_help_text = _("Name or e-mail")
    actions_detail = ("password_reset",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        memberships = QueueMembership.objects.select_related("queue")
        load = count_of(Ticket.objects.filter(status__in=LIVE), "assignee")
        rows: QuerySet[Any] = super().get_queryset(request).annotate(live_count=load)
        return rows.prefetch_related(Prefetch("queue_memberships", memberships))

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        basic = ("name", "email", "role", "capacity")
        if obj is None:
            return ((None, {"fields": (*basic, "password")}),)
        work = ("queues", "load", "presence", "seen", "made")
        return ((None, {"fields": (*basic, "is_active")}), (_("Work"), {"fields": work}))

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> type[Any]:
        return super().get_form(request, obj, change, form=UserForm if obj else NewUserForm, **kwargs)

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[str]:
        mine = ["role", "is_active"] if obj and obj.pk == person(request).pk else []
        return [*super().get_readonly_fields(request, obj), *mine]

    def store(self, request: HttpRequest, row: User, form: Any) -> None:
        if "password" in form.cleaned_data:
            row.set_password(form.cleaned_data["password"])
        save_member(actor=person(request), user=row, now=timezone.now())

    @column(_("name"), header=True)
    def who(self, user: User) -> list[str]:
        return [user.name, user.email, user.initials]

    @column(_("role"))
    def role_chip(self, user: User) -> SafeString:
        return chip("bad", _("superuser")) if user.is_superuser else status_chip(ROLE, user, "role")

    @column(_("queues"))
    def queues(self, user: Any) -> Any:
        rows = [(swatch(one.queue.colour, one.queue.name),) for one in user.queue_memberships.all()]
        return format_html_join(" ", '<span class="le-gap">{}</span>', rows) or EMPTY

    @column(_("live tickets"))
    def load(self, user: Any) -> SafeString:
        full = user.live_count >= user.capacity
        return chip("warn" if full else "calm", f"{user.live_count} / {user.capacity}")

    @column(_("availability"))
    def presence(self, user: User) -> SafeString:
        return status_chip(AVAILABILITY, user, "availability")

    @column(_("status"))
    def state(self, user: User) -> SafeString:
        return chip("good", _("active")) if user.is_active else chip("calm", _("inactive"))

    @column(_("last login"))
    def seen(self, user: User) -> Any:
        return when(user.last_login)

    @column(_("created"))
    def made(self, user: User) -> Any:
        return moment(user.created_at)

    @dialog(
        title=_("Reset password"),
        ask=_("The person is signed out everywhere and signs in with the new one."),
        icon="lock_reset",
        form_class=PasswordForm,
        fits=lambda user, row: user.may("users:write") and user.tenant_id == row.tenant_id and user.pk != row.pk,
    )
    def password_reset(self, request: HttpRequest, user: User, form: Any) -> Any:
        reset_password(actor=person(request), user=user, password=form.cleaned_data["password"])
        return _("The password was changed.")
