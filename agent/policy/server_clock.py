"""
ServerClock: what the server's times are by a clock of ours that nobody sets.

Each response says when it was written. The one that took the shortest way tells best how far the
two clocks are apart; by that the end of an action is reckoned, so that a response that was long on
its way does not draw it out. No input or output: times are arguments.
"""

#: A response is never so long on its way, in seconds: then the server's clock was put back.
LONGEST_WAY_SECONDS = 30.0
#: Clocks drift: what was measured so long ago counts no more, in seconds.
_PERIOD_SECONDS = 300.0


class ServerClock:
    """The clock of the server at the other end of one stream."""

    def __init__(self) -> None:
        self._began = float("-inf")
        #: Least difference in this period and in the one before.
        self._least = self._before = float("inf")

    def note(self, server_time: float, now: float) -> None:
        """A response that was written at *server_time* came at *now*, both in seconds."""
        offset = now - server_time
        if now - self._began >= _PERIOD_SECONDS:
            self._began, self._before, self._least = now, self._least, offset
        self._least = min(self._least, offset)
        if offset - self.offset > LONGEST_WAY_SECONDS:
            self._least, self._before = offset, float("inf")

    @property
    def offset(self) -> float:
        """What to add to the server's time; infinity: not known."""
        return min(self._least, self._before)

    def seconds_until(self, server_time: float, now: float) -> float:
        """How long until the server's clock shows *server_time*; infinity: not known."""
        return server_time + self.offset - now
