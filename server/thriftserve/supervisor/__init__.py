"""Processes: starts, watches, replaces and stops those of a server. Knows nothing of what they serve."""
