"""Automation, pure: which rules match an outcome and which actions follow."""
