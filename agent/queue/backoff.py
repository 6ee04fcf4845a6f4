"""Back-off: when a message that was put off is tried again, and when it has grown too old."""

from datetime import timedelta

#: Jitter spreads a delay by this part of it to either side.
_SPREAD = 0.025
#: Doubling further changes nothing, for any interval is then beyond the longest delay.
_MOST_DOUBLINGS = 64
_LONGEST_DELAY = timedelta(days=3650)


def retry_delay(
    attempts: int,
    *,
    retry_interval: timedelta,
    max_retry_interval: timedelta | None,
    jitter: float,
) -> timedelta:
    """
    The pause after an attempt failed; *attempts* is how many were made before it, *jitter* a
    random number from 0 up to 1.

    >>> minutes = timedelta(minutes=1)
    >>> retry_delay(3, retry_interval=20 * minutes, max_retry_interval=None, jitter=0.5) / minutes
    160.0
    """
    seconds = retry_interval.total_seconds() * 2.0 ** min(attempts, _MOST_DOUBLINGS)
    seconds = min(seconds, (max_retry_interval or _LONGEST_DELAY).total_seconds())
    return timedelta(seconds=seconds * (1 + (2 * jitter - 1) * _SPREAD))


def is_too_old(*, created: float, next_attempt: float, max_age: timedelta) -> bool:
    """
    Whether a message ends here: its next attempt would come after *max_age*. Times are seconds
    since the epoch. The test comes before the wait, so that the sender hears at once.
    """
    return next_attempt - created > max_age.total_seconds()
