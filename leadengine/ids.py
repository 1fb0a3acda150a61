"""Ids: uuid7, so that rows made together lie together in every index."""

from __future__ import annotations

from uuid import UUID

from uuid_utils.compat import uuid7 as _uuid7

__all__ = ["uuid7"]


def uuid7() -> UUID:
    """A new time-ordered id (RFC 9562, version 7)."""
    return _uuid7()
