"""The penstock-server command."""
