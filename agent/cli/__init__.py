"""The penstock-agent command."""
