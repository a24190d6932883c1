"""The concurrency experiments."""
