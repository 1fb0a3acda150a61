"""Back office: sessions and atendimentos, webhook events and the dead letters among them."""

from whatsapp.admin import dead_letters, ledger, sessions

__all__ = ["dead_letters", "ledger", "sessions"]
