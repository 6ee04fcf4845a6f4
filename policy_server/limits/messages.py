"""
What agents say and are told about limits, as the book sees it.

`conversions.limits` makes these of what goes over the wire.
"""

from dataclasses import dataclass

from policy_server.limits.spec import LimitSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What an agent says of one limit."""

    key: str
    #: Units it could use now.
    wants: int
    #: Units it keeps to now: it uses no more, whatever happens, until it takes a newer grant.
    enforced: int
    #: Of the newest grant that it has applied; 0: none.
    version: int = 0
    weight: int = 1
    #: Events that the units given back had left, in parts.
    returned: int = 0
    #: Units in use, for people to look at.
    in_use: int = 0
    #: Shows what the grant said, to a server that has forgotten.
    granted: int = 0
    floor: int = 0
    proof: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One request of an agent: a sign of life, and the limits whose state changed."""

    agent: str
    #: Grows with each start of the agent; what an earlier one had is free.
    incarnation: int
    #: Grows with each request; others are too late or come twice.
    sequence: int
    demands: tuple[Demand, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What an agent may use of one limit from now on."""

    agent: str
    #: It is for this start of the agent alone.
    incarnation: int
    key: str
    #: The whole limit.
    spec: LimitSpec
    version: int
    units: int
    #: Units that it keeps while the server is away, for as long as floors last.
    floor: int
    #: Events that the new units bring with them, in parts.
    fill: int
    proof: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """What one agent may have of one limit, at most."""

    units: int
    #: While the server is away; as long as floors last nobody else may have them.
    floor: int
    #: Which start of the agent: a later one has nothing of it.
    incarnation: int


#: Of whom nothing has to be remembered.
NOTHING_HELD = Holding(units=0, floor=0, incarnation=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """
    What must be durable before the grants beside it are sent: a server that comes back after a
    crash counts on it.
    """

    key: str
    spec: LimitSpec
    #: No more units than that are out.
    ceiling: int
    #: Events that were used of units which the limit has lost since, and not earned again; at most.
    owed: int = 0
    #: Holdings that changed, by agent; `NOTHING_HELD`: it has none any more.
    holdings: tuple[tuple[str, Holding], ...] = ()
    #: No more is out than holdings say, so that nobody need go by the ceiling.
    is_whole: bool = True
    #: Nothing is out, and nothing needs to be durable: the limit is as if it had never been lent.
    is_over: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What follows: make the promises durable, then send the grants."""

    promises: tuple[Promise, ...] = ()
    grants: tuple[Grant, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberedPromise:
    """A promise of a book that several servers keep: a later one has a higher number."""

    promise: Promise
    number: int
