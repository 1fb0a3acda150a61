"""Pages and fragments about connections."""
