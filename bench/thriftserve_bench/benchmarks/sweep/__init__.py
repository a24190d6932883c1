"""Throughput and latency against concurrency and against offered rate."""
