"""
Recovery: when mail is due that a stopped agent finds in its spool at start.

Due times are kept. Only what came due while the agent was stopped is spread: the time for which it
was stopped is mapped onto a window that begins now, in order, so that retries come at about the
rate at which they would have come, and not all at one instant. What was due before the stop was on
its way already and goes on at once.
"""

#: The window is as long as the agent was stopped, but no longer than this, in seconds.
LONGEST_WINDOW = 300.0


def spread_overdue(due: float, *, stopped: float, now: float) -> float:
    """
    When mail is due that was to be tried at *due*; *stopped* is when the agent last ran, 0: not
    known. Times are seconds since the epoch.

    >>> spread_overdue(1300.0, stopped=1000.0, now=2000.0)
    2090.0
    """
    if not stopped or not stopped < due < now:
        return due
    return now + (due - stopped) * min(1.0, LONGEST_WINDOW / (now - stopped))
