"""MTA-STS policies of receiving domains: fetched, remembered, kept current (RFC 8461)."""
