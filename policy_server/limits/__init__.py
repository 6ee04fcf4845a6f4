"""Limits, pure: how one limit is lent out to many agents, so that all of them together keep it."""
