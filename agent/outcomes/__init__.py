"""Outcomes: the delivery log and the way to the policy server."""
