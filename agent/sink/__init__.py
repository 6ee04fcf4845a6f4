"""A mailbox-provider simulator: an SMTP sink with limits, and a loopback DNS server."""
