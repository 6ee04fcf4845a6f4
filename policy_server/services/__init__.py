"""gRPC services: they translate at the border and hold no rules."""
