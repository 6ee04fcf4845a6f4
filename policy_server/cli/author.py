"""Whom the history names for what a command does."""

import getpass


def read_author() -> str:
    """Read the name of the user who runs the command; empty if there is none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        # A container's user may have no name.
        return ""
