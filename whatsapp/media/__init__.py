"""Files of WhatsApp messages: what they are encrypted with, where they are fetched, what they are, where they lie."""
