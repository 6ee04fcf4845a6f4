"""How long a watch waits for what."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchTiming:
    """How long a stream waits for what, in seconds."""

    #: Of the hub, for what begins at nearly the same time.
    gather: float = 0.005
    #: For suspensions and bounces that only last longer.
    extension: float = 0.5
    debounce: float = 0.1
    debounce_most: float = 1.0
    bookmark: float = 5.0
    ack: float = 30.0
    #: For the sites of the paths named at the start; others follow when they are known.
    opening: float = 1.0
    #: Responses that may be unacknowledged.
    window: int = 4
    #: For the client to fetch what it was told to ask for again; then it is sent.
    fetching: float = 15.0
