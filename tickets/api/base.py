"""The base of the routes about tickets."""

from __future__ import annotations

from functools import cached_property

from leadengine.accounts.api import ScopedAPIView
from tickets.policy import Viewer, load_viewer


class TicketAPIView(ScopedAPIView):
    """A native route whose caller is also a viewer: the visibility policy decides what exists for them."""

    @cached_property
    def viewer(self) -> Viewer:
        """The caller's rights, read inside the request's scope."""
        return load_viewer(self.user)
