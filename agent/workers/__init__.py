"""The worker processes of one agent: their parent, and what they share."""
