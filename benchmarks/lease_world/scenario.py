"""What happens to a fleet that shares limits: stated, or drawn from a seed."""

from dataclasses import dataclass, replace
from random import Random

from policy_server.limits.spec import Earning, LimitSpec

SECOND = 1_000_000_000
#: There is one limit.
KEY = "limit"
_UNITS = (1, 2, 3, 5, 8, 20, 100)


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
    #: They all draw it at one time, so many seconds apart; 0: each at times of its own.
    step_seconds: int = 0
    #: How long one connection is busy with a message, in seconds.
    busy: tuple[float, float] = (0.2, 3)
    #: Faults that don't happen although they are drawn, by number.
    left_out: frozenset[int] = frozenset()
    #: How often the limit becomes another one, and how often an agent is cut off for long.
    change_every: float = 0
    long_cut_off_every: float = 0
    long_cut_off_for: tuple[float, float] = (60, 600)
    #: How often an agent ends and starts at once, how often it stops in good order, and how often
    #: an operator ends the leases of one that is dead.
    restart_every: float = 0
    stop_every: float = 0
    release_every: float = 0
    floor_seconds: int = 1200
    #: After all that, so long nothing goes wrong any more and nobody wants anything else.
    calm_seconds: int = 0


def draw_scenario(seed: int) -> Scenario:
    """Draw a small fleet with faults of every kind, or few or none of them."""
    # Drawn by itself, so that the rest of each fleet stays what it was.
    random = Random(f"changes of {seed}")
    if random.random() < 0.5:
        return draw_lasting_scenario(seed)
    return replace(
        draw_lasting_scenario(seed),
        change_every=random.choice([0, 15, 60]),
        long_cut_off_every=random.choice([0, 0, 150, 400]),
        restart_every=random.choice([0, 0, 60]),
        stop_every=random.choice([0, 0, 100]),
        release_every=random.choice([0, 0, 60]),
        floor_seconds=random.choice([1200, 1200, 60]),
        calm_seconds=random.choice([0, 240]),
    )


def draw_lasting_scenario(seed: int) -> Scenario:
    """Draw a fleet as `draw_scenario` does, but whose limit stays as it is, and faults too."""
    random = Random(f"scenario {seed}")
    units = random.choice(_UNITS)
    earning = _draw_earning(random, units) if random.random() < 0.5 else None
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


def draw_change(random: Random, spec: LimitSpec) -> LimitSpec:
    """Draw what a limit becomes: of a rate the count, the burst, or both are others."""
    if spec.earning is None:
        return LimitSpec(units=random.choice(_UNITS))
    units = random.choice([spec.units, random.choice(_UNITS)])
    return LimitSpec(units=units, earning=_draw_earning(random, units))


def _draw_earning(random: Random, units: int) -> Earning:
    count = random.choice([1, 5, units, 10 * units])
    return Earning(count=count, period_ns=random.choice([1, 10, 60]) * SECOND)
