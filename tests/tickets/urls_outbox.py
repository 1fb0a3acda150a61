"""The addresses of the outbox alone, for its own tests."""

from tickets.api import urls_messages
from whatsapp.api import urls

urlpatterns = [*urls_messages.urlpatterns, *urls.urlpatterns]
