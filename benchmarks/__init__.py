"""Benchmarks: each module measures one thing and prints one table."""
