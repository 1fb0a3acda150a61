"""Back office: tickets and messages, queues and close reasons, people."""

from tickets.admin import messages, people, queues, tickets

__all__ = ["messages", "people", "queues", "tickets"]
