"""The data files that stand beside the repository."""

import os
from pathlib import Path

import pytest

_BESIDE = Path(__file__).parents[5] / "shared/data"


def shared_path(name: str) -> Path:
    """Return where a shared file stands; skip the test where there is none, as in a lone clone."""
    path = Path(os.environ.get("PENSTOCK_SHARED_DATA", _BESIDE)) / name
    if not path.exists():
        pytest.skip(f"{path} is not here; set PENSTOCK_SHARED_DATA to where it is")
    return path


def read_shared(name: str) -> str:
    """Return the text of a shared file."""
    return shared_path(name).read_text()
