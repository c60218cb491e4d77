"""Benchmarks: development only, not installed."""
