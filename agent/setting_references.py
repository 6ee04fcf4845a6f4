"""
What settings refer to by name: sources in pools, pools in queues.

The names can be read out of a table as it was written, too, so that a wrong reference is told
together with every other mistake. What can't be read there is not judged: its own mistake is told.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agent.setting_mistakes import nearest


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolNames:
    """A pool: its name and the weights of its sources, in the order they are written."""

    name: str
    weights: tuple[tuple[str, int], ...]
    #: Whether all of them could be read.
    is_whole: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class References:
    """Names as the configuration uses them."""

    #: None: they can't be read, so nothing is said about names that are not among them.
    sources: Sequence[str] | None
    #: None as above; without any there is one, "default".
    pools: Sequence[PoolNames] | None
    #: `egress_pool` of the defaults; then by domain, as written.
    default_pool: str = "default"
    queues: Mapping[str, str] = field(default_factory=dict)


def reference_mistakes(references: References) -> list[str]:
    """Say which names are there twice, and which stand for nothing."""
    pools = references.pools or ()
    return [
        *_duplicates("source", references.sources or ()),
        *_duplicates("pool", [pool.name for pool in pools]),
        *(mistake for pool in pools for mistake in _pool_mistakes(pool, references.sources)),
        *_queue_mistakes(references),
    ]


def written_references(table: Mapping[str, Any]) -> References:
    """Read the names out of *table*, whose `queue` holds the tables of domains as well."""
    queue = table.get("queue", {})
    queue = queue if isinstance(queue, dict) else {}
    own = {name: value for name, value in queue.items() if isinstance(value, dict)}
    default_pool = queue.get("egress_pool", "default")
    return References(
        sources=_written_sources(table),
        pools=_written_pools(table),
        default_pool=default_pool if isinstance(default_pool, str) else "default",
        queues={
            name: value["egress_pool"]
            for name, value in own.items()
            if isinstance(value.get("egress_pool"), str)
        },
    )


def _pool_mistakes(pool: PoolNames, sources: Sequence[str] | None) -> list[str]:
    place = f'pool "{pool.name}"'
    names = [name for name, _ in pool.weights]
    mistakes = _duplicates(f"{place}: source", names)
    mistakes += [
        f'{place}: unknown source "{name}"{nearest(name, sources)}'
        for name in names
        if sources is not None and name not in sources
    ]
    if pool.is_whole and not any(weight for _, weight in pool.weights):
        mistakes.append(f"{place}: give at least one source a weight")
    return mistakes


def _queue_mistakes(references: References) -> list[str]:
    if references.pools is None:
        return []
    known = [pool.name for pool in references.pools] or ["default"]
    places = {"queue": references.default_pool}
    # What a domain has from the defaults is told of the defaults alone.
    places |= {
        f'queue."{domain}"': pool
        for domain, pool in references.queues.items()
        if pool != references.default_pool
    }
    return [
        f'{place}: unknown egress_pool "{pool}"{nearest(pool, known)}'
        for place, pool in places.items()
        if pool not in known
    ]


def _duplicates(what: str, names: Sequence[str]) -> list[str]:
    doubled = dict.fromkeys(name for name in names if names.count(name) > 1)
    return [f'{what} "{name}" is there more than once; names must differ' for name in doubled]


def _written_sources(table: Mapping[str, Any]) -> list[str] | None:
    if "source" not in table:
        return ["default"]
    return _names_of(table["source"])


def _written_pools(table: Mapping[str, Any]) -> list[PoolNames] | None:
    written = table.get("pool", [])
    names = _names_of(written)
    if names is None:
        return None
    return [_written_pool(name, pool) for name, pool in zip(names, written, strict=True)]


def _written_pool(name: str, pool: Mapping[str, Any]) -> PoolNames:
    written = pool.get("sources", ())
    names = _names_of(written)
    if names is None:
        return PoolNames(name=name, weights=(), is_whole=False)
    weights = [member.get("weight", 1) for member in written]
    return PoolNames(
        name=name,
        weights=tuple(zip(names, weights, strict=True)),
        is_whole=all(isinstance(weight, int) for weight in weights),
    )


def _names_of(written: Any) -> list[str] | None:
    """The names in a list of tables; None if one can't be read."""
    if not isinstance(written, list):
        return None
    names = [one.get("name") if isinstance(one, dict) else None for one in written]
    readable = [name for name in names if isinstance(name, str)]
    return readable if len(readable) == len(names) else None
