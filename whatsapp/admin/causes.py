"""Why events lie at the desk: the same cause for the same words, whatever ids and phones stand in them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.models import Case, Count, F, Func, Max, OuterRef, Q, QuerySet, Subquery, TextField, Value, When
from django.db.models.functions import Coalesce, Left, NullIf

from whatsapp.models import WebhookItem
from whatsapp.services.reprocessing_desk import UNREAD

PARAMETER = "cause"
MOST = 12
_LONGEST = 120
# What an event owes: the first item that is not at a good end.
_STUCK = Q(fate__in=["failed", "pending", "parked"]) | Q(fate="ignored", reason__in=UNREAD)


@dataclass(frozen=True, slots=True)
class Cause:
    """One cause and how many events it keeps. `detail`: the instance of an orphan, else the error without numbers."""

    reason: str
    detail: str
    n: int
    latest: datetime

    @property
    def key(self) -> str:
        """What the filter calls it."""
        return f"{self.reason}|{self.detail}"

    @property
    def words(self) -> str:
        """What people read in the filter."""
        return f"{self.reason} · {self.detail}" if self.detail else self.reason

    @property
    def is_orphan(self) -> bool:
        """Whether these events look for a session."""
        return self.reason == "unknown_instance"


def with_cause(rows: QuerySet[Any]) -> QuerySet[Any]:
    """Add stuck_reason, stuck_fate, stuck_attempts, trouble (the whole error), cause_reason and cause_detail."""
    stuck = WebhookItem.objects.filter(_STUCK, event=OuterRef("pk")).order_by("index")

    def first(name: str) -> Subquery:
        return Subquery(stuck.values(name)[:1])

    def words(*parts: Any) -> Coalesce:
        return Coalesce(*parts, output_field=TextField())

    headline = Func(F("trouble"), Value(r"^[^\n]*"), function="substring", output_field=TextField())
    bare = Func(headline, Value(r"\d+"), Value("#"), Value("g"), function="regexp_replace", output_field=TextField())
    made: QuerySet[Any] = rows.annotate(
        stuck_reason=words(first("reason"), Value("")),
        stuck_fate=words(first("fate"), Value("")),
        stuck_attempts=Coalesce(first("attempts"), F("attempts")),
        trouble=words(NullIf(first("error"), Value("")), F("error")),
        cause_reason=words(NullIf(F("stuck_reason"), Value("")), F("reason")),
        cause_detail=Case(
            When(status="ORPHAN", then=Left("instance_id", _LONGEST)), default=Left(bare, _LONGEST),
            output_field=TextField(),
        ),
    )  # fmt: skip
    return made


def find_causes(rows: QuerySet[Any]) -> list[Cause]:
    """The most frequent causes of these events, the most frequent first."""
    groups = with_cause(rows).order_by().values("cause_reason", "cause_detail")
    found = groups.annotate(n=Count("pk"), latest=Max("received_at")).order_by("-n")[:MOST]
    return [Cause(row["cause_reason"], row["cause_detail"] or "", row["n"], row["latest"]) for row in found]


def rows_of_cause(rows: QuerySet[Any], key: str) -> QuerySet[Any]:
    """Of rows `with_cause` those of one cause; all of them without a key."""
    if not key:
        return rows
    reason, _, detail = key.partition("|")
    return rows.filter(cause_reason=reason, cause_detail=detail)
