"""Back office: sessions and atendimentos, webhook events and the dead letters among them."""

from whatsapp.admin import ledger, sessions

__all__ = ["ledger", "sessions"]
