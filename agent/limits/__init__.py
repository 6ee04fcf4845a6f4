"""Limits, pure: what this agent holds of limits that it shares with others."""
