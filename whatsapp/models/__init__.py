"""The channel: WhatsApp sessions and atendimentos, and the raw inbox."""

from whatsapp.models.ledger import DeadLetter, ParkedEffect, WebhookEvent, WebhookItem
from whatsapp.models.sessions import GapFill, InboundHour, SessionEvent, WhatsAppAtendimento, WhatsAppSession

__all__ = [
    "DeadLetter",
    "GapFill",
    "InboundHour",
    "ParkedEffect",
    "SessionEvent",
    "WebhookEvent",
    "WebhookItem",
    "WhatsAppAtendimento",
    "WhatsAppSession",
]
