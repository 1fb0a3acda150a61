"""What every new tenant begins with: the pipeline's stages, and the reasons to end a ticket."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from django.db import connection

from leadengine.ids import uuid7
from leadengine.sql import insert_rows
from leads.services import DEFAULT_STAGES

# code, label, outcome, may be reopened, needs a note (spec/tickets-leads.md section 4)
CLOSE_REASONS = (
    ("SOLVED", "Resolvido", "RESOLVED", True, False),
    ("NO_ANSWER", "Cliente não respondeu", "CLOSED", True, False),
    ("SPAM", "Spam", "CLOSED", False, False),
    ("WRONG_NUMBER", "Número errado", "CLOSED", True, False),
    ("LOST", "Negócio perdido", "CLOSED", True, False),
    ("MERGED", "Unido a outro atendimento", "CLOSED", True, False),
    ("OTHER", "Outro motivo", "CLOSED", True, True),
)


def create_tenant_defaults(*, tenant_ids: Sequence[UUID]) -> None:
    """Give tenants their stages and close reasons, two statements for all of them; harmless when they have them."""
    with connection.cursor() as cursor:
        insert_rows(
            cursor,
            "leads_pipelinestage",
            {
                "id": "uuid", "tenant_id": "uuid", "name": "text", "status": "text", "colour": "text",
                "is_won": "boolean", "is_lost": "boolean", "order_index": "smallint",
            },
            [
                (uuid7(), tenant_id, name, status, colour, won, lost, index)
                for tenant_id in tenant_ids
                for index, (name, status, colour, won, lost) in enumerate(DEFAULT_STAGES)
            ],
            "ON CONFLICT (tenant_id, status) DO NOTHING",
        )  # fmt: skip
        insert_rows(
            cursor,
            "tickets_closereason",
            {
                "id": "uuid", "tenant_id": "uuid", "code": "text", "label": "text", "outcome": "text",
                "allows_reopen": "boolean", "requires_note": "boolean", "order_index": "smallint",
            },
            [
                (uuid7(), tenant_id, *reason, index)
                for tenant_id in tenant_ids
                for index, reason in enumerate(CLOSE_REASONS)
            ],
            "ON CONFLICT (tenant_id, code) DO NOTHING",
        )  # fmt: skip
