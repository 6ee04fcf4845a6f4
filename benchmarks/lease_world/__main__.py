"""
Run simulated fleets and explain what fails: `python -m benchmarks.lease_world SEED [FROM-TO] …`.

The first ones that fail are shrunk, and shown with all that happens in them.
"""

import sys

from benchmarks.lease_world.scenario import draw_scenario
from benchmarks.lease_world.shrink import explain
from benchmarks.lease_world.world import LeaseWorld

_MOST_EXPLAINED = 5


def main(arguments: list[str]) -> int:
    """Run the seeds that are named; return how the process ends."""
    if not arguments:
        print(__doc__)
        return 2
    seeds = [seed for argument in arguments for seed in _read(argument)]
    failed = []
    for seed in seeds:
        if LeaseWorld(draw_scenario(seed), seed).run().violations:
            failed.append(seed)
            if len(failed) <= _MOST_EXPLAINED:
                print(explain(draw_scenario(seed), seed), end="\n\n", flush=True)
    print(f"{len(failed)} of {len(seeds)} fleets failed", *failed)
    return 1 if failed else 0


def _read(argument: str) -> range:
    first, _, last = argument.partition("-")
    return range(int(first), int(last or int(first) + 1))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
