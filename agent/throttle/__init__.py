"""Throttles, pure: rates and connection slots on a clock that is an argument."""
