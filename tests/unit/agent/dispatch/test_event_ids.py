import re
from random import Random

from agent.dispatch.event_ids import EventIds


def test_ids_differ_within_a_maker_and_between_makers():
    dice = Random(1)
    makers = [EventIds(dice.getrandbits) for _ in range(20)]

    made = [maker.next() for maker in makers for _ in range(50)]

    assert len(set(made)) == len(made)
    assert all(re.fullmatch(r"[0-9a-f]{32}", one) for one in made)
