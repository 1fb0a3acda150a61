"""Leads follow the conversation."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from leadengine.accounts.scopes import tenant_scope
from leads.models import Lead, LeadActivity
from leads.services import note_answers
from tests.conftest import World
from tests.whatsapp.inbound import receive, text_event

pytestmark = pytest.mark.django_db(transaction=True)


def test_answers_are_noted_once_a_day_of_the_tenant(committed_world: World) -> None:
    receive(text_event("Oi"))
    with tenant_scope(committed_world.ipe.pk):
        contact_id = Lead.objects.get().contact_id
        # 02:30 and 03:30 UTC of one day are two days in São Paulo (UTC-3).
        for hour, minute in ((2, 30), (2, 45), (3, 30), (20, 0)):
            at = datetime(2026, 11, 20, hour, minute, tzinfo=UTC)
            note_answers(tenant_id=committed_world.ipe.pk, answers=[(contact_id, at)])
        assert LeadActivity.objects.filter(kind="WHATSAPP_SENT").count() == 2
