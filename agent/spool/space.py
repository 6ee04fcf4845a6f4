"""How much room the spool's disk has left."""

import os
from pathlib import Path

from agent.setting_values import SpaceFloor

#: The disk is not asked more often than this, in seconds.
_INTERVAL = 1.0


class FreeSpace:
    """Watches one disk against a floor."""

    def __init__(self, directory: Path, floor: SpaceFloor) -> None:
        self._directory = directory
        self._floor = floor
        self._asked = float("-inf")
        self._is_low = False

    def is_low(self, now: float) -> bool:
        """Whether less than the floor is free; *now* in seconds of any clock."""
        if not 0 <= now - self._asked < _INTERVAL:
            disk = os.statvfs(self._directory)
            self._is_low = not self._floor.is_met(
                free=disk.f_bavail * disk.f_frsize, total=disk.f_blocks * disk.f_frsize
            )
            self._asked = now
        return self._is_low
