"""Delivery decisions, pure: connection plan, TLS posture, meaning of replies."""
