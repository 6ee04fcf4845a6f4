"""
What the agent says and hears about limits.

`agent.convert` makes these of what goes over the wire.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What the agent says of one limit."""

    key: str
    #: Units it could use now.
    wants: int
    #: Units it keeps to from now on, until it applies a newer grant.
    enforced: int
    #: Of the newest grant applied; 0: none.
    version: int
    #: Events, in parts, of units that were given back with that grant.
    returned: int
    #: What that grant said, and what proves it.
    granted: int
    floor: int
    proof: bytes
    #: Units in use, for people to look at; a change of it alone is not told.
    in_use: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One request."""

    agent: str
    incarnation: int
    sequence: int
    demands: tuple[Demand, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What may be used of one limit from now on."""

    key: str
    version: int
    units: int
    floor: int
    #: Events, in parts, that come with it.
    fill: int
    proof: bytes
    #: One event in parts, and the parts that a unit earns a nanosecond; 0: connections.
    event_parts: int
    earns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the server says: up to which request it has heard, and grants."""

    epoch: int
    #: For this start of the agent alone.
    incarnation: int
    sequence: int
    grants: tuple[Grant, ...] = ()
