"""What is fair: reckoned another way than the server does, to be compared with it."""

from collections.abc import Mapping


def share_fairly(units: float, wants: Mapping[str, float]) -> dict[str, float]:
    """
    Divide units max-min fairly, in parts of units: nobody has less than another one who has more
    than an equal part, unless they want no more.

    >>> share_fairly(10, {"a": 2, "b": 9, "c": 9})
    {'a': 2, 'b': 4.0, 'c': 4.0}
    """
    fair: dict[str, float] = {}
    ordered = sorted(wants, key=wants.__getitem__)
    for place, name in enumerate(ordered):
        fair[name] = min(wants[name], units / (len(ordered) - place))
        units -= fair[name]
    return fair
