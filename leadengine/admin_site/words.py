"""What the theme says in English only: its words are named here, so that our catalogue translates them."""

from __future__ import annotations

from django.utils.translation import gettext_noop as _

THEME = (
    _("Type to search"),
    _("Search apps and models..."),
    _("Filters"),
    _("Apply Filters"),
    _("Clear all filters"),
    _("Select value"),
    _("Select record"),
    _("Reset filters"),
    _("No results found"),
    _("This page yielded into no results. Create a new item or reset your filters."),
    _("Previous"),
    _("Next"),
    _("General"),
    _("Cancel"),
    _("Submit"),
    _("Light"),
    _("Dark"),
    _("System"),
    _("Add another"),
    _("More actions"),
    _(" By %(filter_title)s "),
    _("Record picture"),
    _("Home"),
)
