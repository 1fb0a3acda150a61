"""Column values in the record of a merge: written as JSON, compared, and put back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.db.models import Model


def wire(value: Any) -> Any:
    """A column value as the record keeps it."""
    if isinstance(value, date | datetime):
        return value.isoformat()
    return str(value) if isinstance(value, UUID | Decimal) else value


def take_back(row: Model, fields: Mapping[str, Sequence[Any]]) -> list[str]:
    """Set the columns of {name: [before, after]} back to `before` where nobody has changed `after`; their names."""
    back = [name for name, (_, after) in fields.items() if wire(getattr(row, name)) == after]
    for name in back:
        field: Any = row._meta.get_field(name.removesuffix("_id"))
        setattr(row, name, field.to_python(fields[name][0]))
    return back
