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
        #: Paths by key. Most limits are named by one.
        self._keys: dict[str, dict[Hashable, LimitSpec]] = {}
        self._smallest: dict[str, LimitSpec] = {}
        self._namings: dict[str, set[Hashable]] = {}

    def name(self, namer: str, path: Hashable, specs: Specs) -> None:
        """Note that *namer* names *path*, whose answer has *specs* now."""
        named = self._namings.setdefault(namer, set())
        if path not in named:
            named.add(path)
            self._paths.setdefault(path, _Path({})).namings += 1
        self.update(path, specs)

    def update(self, path: Hashable, specs: Specs) -> dict[str, LimitSpec]:
        """Note what the answer of *path* has now; return the limits that became others."""
        known = self._paths.get(path)
        if known is None or known.specs is specs or known.specs == specs:
            return {}
        before, known.specs = known.specs, specs
        return self._change(path, before, specs)

    def forget(self, namer: str) -> None:
        """Forget what *namer* named; limits stay as they are for those who have them."""
        for path in self._namings.pop(namer, ()):
            known = self._paths[path]
            known.namings -= 1
            if not known.namings:
                del self._paths[path]
                self._change(path, known.specs, {})

    def spec(self, key: str) -> LimitSpec | None:
        """Return the limit as it holds; None: no path names it."""
        return self._smallest.get(key)

    def disagreeing(self, key: str) -> int:
        """Count the other values that paths name."""
        return len(set(self._keys.get(key, {}).values()) - {self._smallest.get(key)})

    def paths(self) -> list[Hashable]:
        """List the paths that are named."""
        return list(self._paths)

    def has_named(self, namer: str) -> int:
        """Count the paths that *namer* names."""
        return len(self._namings.get(namer, ()))

    def _change(self, path: Hashable, before: Specs, after: Specs) -> dict[str, LimitSpec]:
        changed = {}
        for key in before.keys() | after.keys():
            values = self._keys.setdefault(key, {})
            if key in after:
                values[path] = after[key]
            else:
                values.pop(path, None)
            if not values:
                del self._keys[key]
                self._smallest.pop(key, None)
                continue
            smallest = find_smallest(values)
            if self._smallest.get(key) != smallest:
                self._smallest[key] = changed[key] = smallest
        return changed


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
