"""The channel: WhatsApp sessions and atendimentos, what keeps them alive, and the raw inbox."""

from whatsapp.models.keeping import Duty, Maintenance, PersistenceJournal, RecoveryRun
from whatsapp.models.ledger import DeadLetter, ParkedEffect, WebhookEvent, WebhookItem
from whatsapp.models.sessions import GapFill, InboundHour, SessionEvent, WhatsAppAtendimento, WhatsAppSession
from whatsapp.models.uploads import Upload

__all__ = [
    "DeadLetter",
    "Duty",
    "GapFill",
    "InboundHour",
    "Maintenance",
    "ParkedEffect",
    "PersistenceJournal",
    "RecoveryRun",
    "SessionEvent",
    "Upload",
    "WebhookEvent",
    "WebhookItem",
    "WhatsAppAtendimento",
    "WhatsAppSession",
]
