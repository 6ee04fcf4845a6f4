"""The spool: mail and outcomes, safe on disk."""
