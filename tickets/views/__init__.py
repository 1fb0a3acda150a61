"""The desk's pages and fragments (spec/inbox.md sections 2 to 12)."""
