"""
The rules that come with Penstock: a layer of public facts about the large mailbox providers.

Nothing applies by itself: the layer counts once it is imported, like any other rule file.
"""

from importlib.resources import files
from pathlib import Path


def builtin_rules_path() -> Path:
    """Return where the rule file of the layer `builtin` stands."""
    # The package is installed as plain files, so the resource is a path already.
    return Path(str(files(__package__) / "builtin.toml"))
