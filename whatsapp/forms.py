"""What people type about a connection."""

from __future__ import annotations

from django import forms
from django.utils.translation import gettext_lazy as _

from whatsapp.services.sessions.wishes import NAME_MAX


class NameForm(forms.Form):
    """The name that people read."""

    name = forms.CharField(label=_("Name"), min_length=1, max_length=NAME_MAX)


class PhoneForm(forms.Form):
    """The phone that gets a code to type; the service says whether it is one."""

    phone = forms.CharField(label=_("Phone number"), max_length=32)
