"""Chaos (spec/quality.md): the product is hurt while it works, and afterwards nothing that it promised is missing."""
