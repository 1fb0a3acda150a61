"""What every native route stands on: the scoped view, strict bodies and queries, answers `{"data", "meta"?}`."""

from leadengine.accounts.api.base import Body, Moment, Query, ScopedAPIView, UnknownRouteView, answer
from leadengine.accounts.api.schema import describe

__all__ = ["Body", "Moment", "Query", "ScopedAPIView", "UnknownRouteView", "answer", "describe"]
