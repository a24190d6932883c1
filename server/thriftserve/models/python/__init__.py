"""Models that are Python classes."""
