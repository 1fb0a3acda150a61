"""Back office: sessions, atendimentos, webhook events, dead letters, the journal and recoveries."""

from whatsapp.admin import atendimentos, dead_letters, keeping, ledger, sessions

__all__ = ["atendimentos", "dead_letters", "keeping", "ledger", "sessions"]
