"""What happens to a fleet that shares limits: stated, or drawn from a seed."""

from dataclasses import dataclass
from random import Random

from policy_server.limits.spec import Earning, LimitSpec

SECOND = 1_000_000_000
#: There is one limit.
KEY = "limit"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """What happens to a fleet; rates of faults are mean seconds between them, 0 for never."""

    spec: LimitSpec
    agents: int = 20
    seconds: int = 300
    loss: float = 0.05
    doubled: float = 0.01
    #: Shortest and longest way of a message, in seconds.
    delay: tuple[float, float] = (0.005, 0.4)
    drift: float = 0.001
    cut_off_every: float = 0
    cut_off_for: tuple[float, float] = (3, 90)
    crash_every: float = 0
    freeze_every: float = 0
    server_crash_every: float = 0
    server_away: tuple[float, float] = (1, 40)
    server_freeze_every: float = 0
    #: Units that an agent wants, from and to, drawn anew every so many seconds.
    wants: tuple[int, int] = (0, 40)
    wants_every: float = 10
    #: How long one connection is busy with a message, in seconds.
    busy: tuple[float, float] = (0.2, 3)
    #: Faults that don't happen although they are drawn, by number.
    left_out: frozenset[int] = frozenset()


def draw_scenario(seed: int) -> Scenario:
    """Draw a small fleet with faults of every kind, or few or none of them."""
    random = Random(f"scenario {seed}")
    units = random.choice([1, 2, 3, 5, 8, 20, 100])
    earning = None
    if random.random() < 0.5:
        count = random.choice([1, 5, units, 10 * units])
        earning = Earning(count=count, period_ns=random.choice([1, 10, 60]) * SECOND)
    return Scenario(
        spec=LimitSpec(units=units, earning=earning),
        agents=random.randint(1, 9),
        seconds=random.choice([60, 150, 300]),
        loss=random.choice([0, 0.05, 0.3]),
        doubled=random.choice([0, 0.2]),
        delay=random.choice([(0, 0.01), (0.005, 0.4), (0.1, 5)]),
        drift=random.choice([0, 0.001]),
        cut_off_every=random.choice([0, 60, 200]),
        crash_every=random.choice([0, 60, 200]),
        freeze_every=random.choice([0, 60]),
        server_crash_every=random.choice([0, 6, 30, 100]),
        # As short as that, what was said to the server before reaches the next one.
        server_away=random.choice([(0.1, 2), (1, 40)]),
        wants=(random.choice([0, 1]), max(1, random.choice([units // 2, units, 3 * units]))),
        wants_every=random.choice([2, 10]),
        busy=random.choice([(0.2, 3), (5, 60)]),
        # Drawn by itself, so that the rest of each fleet stays what it was.
        server_freeze_every=Random(f"server freezes of {seed}").choice([0, 0, 20, 100]),
    )
