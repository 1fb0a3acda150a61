"""Forms of the pages that everybody has: login and account."""

from __future__ import annotations

from typing import Any, ClassVar

from django import forms
from django.conf import settings
from django.utils.translation import gettext_lazy as _

from leadengine.accounts.models import User

THEMES = [("light", _("Light")), ("dark", _("Dark")), ("system", _("System"))]
DENSITIES = [("comfortable", _("Comfortable")), ("compact", _("Compact"))]
SEND_KEYS = [("enter", _("Enter sends, Shift+Enter breaks the line")), ("ctrl-enter", _("Ctrl+Enter sends"))]
NOTIFY = [("none", _("None")), ("mine", _("My tickets"))]


class LoginForm(forms.Form):
    """E-mail and password. What is wrong with a pair is never said."""

    email = forms.CharField(max_length=254)
    password = forms.CharField(max_length=200, strip=False)
    remember = forms.BooleanField(required=False)


class ProfileForm(forms.ModelForm):  # type: ignore[type-arg]  # not subscriptable at run time
    """Name and language."""

    locale = forms.ChoiceField(label=_("Language"), choices=settings.LANGUAGES)

    class Meta:
        model = User
        fields: ClassVar = ["name", "locale"]


class PreferencesForm(forms.Form):
    """How the desk looks and behaves for one person; kept in `User.preferences`."""

    theme = forms.ChoiceField(choices=THEMES)
    density = forms.ChoiceField(choices=DENSITIES)
    sendKey = forms.ChoiceField(choices=SEND_KEYS)
    keys = forms.BooleanField(required=False)
    notify = forms.ChoiceField(choices=NOTIFY)

    @staticmethod
    def of(user: User) -> dict[str, Any]:
        """The preferences in force, defaults filled in."""
        kept = user.preferences
        return {
            "theme": kept.get("theme", "system"),
            "density": kept.get("density", "comfortable"),
            "sendKey": kept.get("sendKey", "enter"),
            "keys": kept.get("keys", True),
            "notify": kept.get("notify", "none"),
        }


class DeskStateForm(forms.Form):
    """What the desk remembers by itself: the width of the list, the theme of the quick switch."""

    listWidth = forms.IntegerField(required=False, min_value=300, max_value=420)
    theme = forms.ChoiceField(choices=THEMES, required=False)
