"""Queues, pure: names, retry times, order, and choice of source."""
