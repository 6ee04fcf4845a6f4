"""Dispatch: moves mail from the spool through the queues to SMTP sessions."""
