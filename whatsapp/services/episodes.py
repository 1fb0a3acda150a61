"""An atendimento row for each ticket that we open or reopen ourselves (spec/sessions.md section 9)."""

from __future__ import annotations

from uuid import UUID

from django.db import connection

from whatsapp.addresses import GROUP_SERVER, LID_SERVER, PHONE_SERVER

# The chat is named by the canonical phone where one is known, as whatsapp.addresses.chat_of names it for arrivals.
_OPEN = f"""
INSERT INTO whatsapp_atendimentos (tenant_id, ticket_id, chat_id, owner_id, connection_id, assigned_to)
SELECT t.tenant_id, t.id, c.chat_id, s.owner_id, s.connection_id, t.assignee_id
FROM tickets_ticket t
JOIN whatsapp_sessions s ON s.id = t.session_id
JOIN LATERAL (
    SELECT CASE i.kind WHEN 'phone' THEN substr(i.value, 2) || '@{PHONE_SERVER}'
                       WHEN 'lid' THEN i.value || '@{LID_SERVER}' ELSE i.value END AS chat_id
    FROM leads_contactidentity i
    WHERE i.contact_id = t.contact_id AND i.kind IN ('phone', 'lid', 'jid')
    ORDER BY i.value LIKE '%%@{GROUP_SERVER}' DESC, i.kind = 'phone' DESC, i.kind = 'lid' DESC, i.id LIMIT 1
) c ON true
WHERE t.tenant_id = %(tenant)s AND t.id = %(ticket)s AND t.status IN ('OPEN', 'ASSIGNED')
    AND NOT EXISTS (SELECT 1 FROM whatsapp_atendimentos a WHERE a.ticket_id = t.id AND a.status <> 'FECHADO')
    AND NOT EXISTS (SELECT 1 FROM whatsapp_atendimentos a WHERE a.owner_id = s.owner_id
        AND a.connection_id = s.connection_id AND a.chat_id = c.chat_id AND a.status = 'ATIVO')
"""  # noqa: S608 - constants only


def open_episode(*, tenant_id: UUID, ticket_id: UUID) -> None:
    """Give a live ticket without an open row its ATIVO row; harmless when it has one. The ticket's row is locked."""
    with connection.cursor() as cursor:
        cursor.execute(_OPEN, {"tenant": tenant_id, "ticket": ticket_id})
