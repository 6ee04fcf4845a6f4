"""
Names: which paths name which limits, and with which value.

Several paths may name one limit, and their answers may disagree, as where an action lowers a
provider's limit on one path. What holds then is the smallest: of limits the lowest, of rates the
slowest and the smallest burst. A path counts for as long as somebody has named it.
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace

from policy_server.limits.spec import Earning, LimitSpec

Specs = Mapping[str, LimitSpec]


@dataclass(slots=True)
class _Path:
    specs: Specs
    #: How many have named it.
    namings: int = 0


class NamedLimits:
    """The limits that the paths in use name; memory is proportional to those paths."""

    def __init__(self) -> None:
        self._paths: dict[Hashable, _Path] = {}
        #: By key: the one path that names it, as for most; or all paths, with the smallest value.
        self._alone: dict[str, Hashable] = {}
        self._shared: dict[str, dict[Hashable, LimitSpec]] = {}
        self._smallest: dict[str, LimitSpec] = {}
        #: The paths of each namer, that which was named longest ago first.
        self._namings: dict[str, dict[Hashable, None]] = {}

    def name(self, namer: str, path: Hashable, specs: Specs) -> None:
        """Note that *namer* names *path*, whose answer has *specs* now."""
        if not self.name_again(namer, path):
            self._namings.setdefault(namer, {})[path] = None
            self._paths.setdefault(path, _Path({})).namings += 1
        self.update(path, specs)

    def name_again(self, namer: str, path: Hashable) -> bool:
        """Note that *namer* names once more what it has named before; False: it has not."""
        named = self._namings.get(namer, {})
        if path not in named:
            return False
        named[path] = named.pop(path)
        return True

    def update(self, path: Hashable, specs: Specs) -> dict[str, LimitSpec]:
        """Note what the answer of *path* has now; return the limits that became others."""
        known = self._paths.get(path)
        if known is None or known.specs is specs or known.specs == specs:
            return {}
        keys = known.specs.keys() | specs.keys()
        before = {key: self.spec(key) for key in keys}
        for key in known.specs:
            self._leave(key, path)
        known.specs = specs
        for key in specs:
            self._enter(key, path)
        after = ((key, self.spec(key)) for key in keys)
        return {key: spec for key, spec in after if spec is not None and spec != before[key]}

    def forget(self, namer: str) -> None:
        """Forget what *namer* named; limits stay as they are for those who have them."""
        for path in self._namings.pop(namer, ()):
            self._leave_path(path)

    def forget_oldest(self, namer: str) -> None:
        """Forget the path that *namer*, who names some, has not named for longest."""
        named = self._namings[namer]
        path = next(iter(named))
        del named[path]
        self._leave_path(path)

    def spec(self, key: str) -> LimitSpec | None:
        """Return the limit as it holds; None: no path names it."""
        if key in self._alone:
            return self._paths[self._alone[key]].specs[key]
        return self._smallest.get(key)

    def disagreeing(self, key: str) -> int:
        """Count the other values that paths name."""
        return len(set(self._shared.get(key, {}).values()) - {self._smallest.get(key)})

    def paths(self) -> list[Hashable]:
        """List the paths that are named."""
        return list(self._paths)

    def has_named(self, namer: str) -> int:
        """Count the paths that *namer* names."""
        return len(self._namings.get(namer, ()))

    def _leave_path(self, path: Hashable) -> None:
        known = self._paths[path]
        known.namings -= 1
        if not known.namings:
            self.update(path, {})
            del self._paths[path]

    def _enter(self, key: str, path: Hashable) -> None:
        if key not in self._shared and key not in self._alone:
            self._alone[key] = path
            return
        if key in self._alone:
            first = self._alone.pop(key)
            self._shared[key] = {first: self._paths[first].specs[key]}
        values = self._shared[key]
        values[path] = self._paths[path].specs[key]
        self._smallest[key] = find_smallest(values)

    def _leave(self, key: str, path: Hashable) -> None:
        if self._alone.get(key) == path:
            del self._alone[key]
            return
        values = self._shared[key]
        del values[path]
        if len(values) > 1:
            self._smallest[key] = find_smallest(values)
            return
        (self._alone[key],) = values
        del self._shared[key], self._smallest[key]


def find_smallest(values: Mapping[Hashable, LimitSpec]) -> LimitSpec:
    """Find what is within all of *values*, of which there is at least one."""
    distinct = list(dict.fromkeys(values.values()))
    smallest = distinct[0]
    for spec in distinct[1:]:
        smallest = replace(
            smallest,
            units=min(smallest.units, spec.units),
            earning=_find_slower(smallest.earning, spec.earning),
        )
    return smallest


def _find_slower(one: Earning | None, other: Earning | None) -> Earning | None:
    if one is None or other is None:
        return one or other
    is_slower = one.count * other.period_ns <= other.count * one.period_ns
    return one if is_slower else other
