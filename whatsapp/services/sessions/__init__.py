"""Connections: what people want of them, what the broker says of them, and the two brought together.

Edges call a wish, then `converge` for up to SESSION_ACTION_TIMEOUT_MS; no transaction may be open.
"""
