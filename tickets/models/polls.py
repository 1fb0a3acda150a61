"""Polls as they stand: one vote per voter, whoever saw it first (spec/inbound.md section 11)."""

from __future__ import annotations

from typing import ClassVar

from django.db import models
from django.utils.translation import gettext_lazy as _

from leadengine.accounts.models import TenantOwned


class Poll(TenantOwned):
    """A poll by its identity at the channel; a vote may come before the message that asks."""

    session_id = models.UUIDField()
    external_id = models.CharField(max_length=255)  # of the message that asks
    question = models.TextField(blank=True, default="", db_default="")
    options = models.JSONField(default=list, db_default=[])  # texts, in the order of the question
    selectable = models.PositiveSmallIntegerField(null=True, blank=True)  # None or 0: any number
    secret = models.TextField(blank=True, default="", db_default="", editable=False)  # sealed (leadengine.sealing)

    class Meta:
        verbose_name = _("poll")
        verbose_name_plural = _("polls")
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["session_id", "external_id"], name="poll_identity_unique")
        ]

    def __str__(self) -> str:
        return self.question[:60]


class PollVote(TenantOwned):
    """What one voter chose last; no options: the vote was withdrawn."""

    poll = models.ForeignKey(Poll, on_delete=models.CASCADE, db_constraint=False, db_index=False, related_name="votes")
    voter = models.CharField(max_length=255)  # `contact` in a direct chat, in groups the address of the person
    options = models.JSONField(default=list, db_default=[])
    at = models.DateTimeField()
    external_id = models.CharField(max_length=255)  # of the vote: settles which of two of one instant counts

    class Meta:
        constraints: ClassVar = [models.UniqueConstraint(fields=["poll", "voter"], name="poll_vote_one_per_voter")]

    def __str__(self) -> str:
        return f"{self.poll_id} {self.at:%F %T}"
