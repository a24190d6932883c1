"""Versions that change under load: what clients notice of it, and whether the memory comes back."""
