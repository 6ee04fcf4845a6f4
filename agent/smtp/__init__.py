"""Mail in: the SMTP listener and the Inject service."""
