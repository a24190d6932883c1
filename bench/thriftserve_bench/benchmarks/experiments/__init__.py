"""The concurrency experiments: run, told, predicted."""
