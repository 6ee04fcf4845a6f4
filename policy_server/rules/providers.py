"""
Which providers a question matches, through an index of suffixes.

A pattern is a plain suffix, so a host has at most as many candidate suffixes as the patterns have
different lengths: each is one look-up, however many providers there are.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from policy_server.rules.layers import MatchKind, ProviderMatch

_NONE: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class SuffixIndex:
    """Providers by suffix."""

    by_suffix: Mapping[str, frozenset[int]]
    lengths: tuple[int, ...]

    def find(self, text: str) -> frozenset[int]:
        """Return the numbers of the providers that have a suffix of *text*."""
        found = _NONE
        for length in self.lengths:
            if length > len(text):
                break
            here = self.by_suffix.get(text[-length:])
            if here is not None:
                found |= here
        return found


@dataclass(frozen=True, slots=True)
class ProviderIndex:
    """The patterns of all providers, which are known by number."""

    mx_suffixes: SuffixIndex
    domain_suffixes: SuffixIndex
    host_names: Mapping[str, frozenset[int]]

    def match_hosts(self, hosts: Iterable[str]) -> frozenset[int]:
        """Return the providers that every one of *hosts* satisfies; none for no hosts."""
        found: frozenset[int] | None = None
        for host in hosts:
            here = self.mx_suffixes.find(host) | self.host_names.get(host, _NONE)
            found = here if found is None else found & here
            if not found:
                break
        return found or _NONE

    def match_domain(self, domain: str) -> frozenset[int]:
        """Return the providers that have a suffix of *domain*."""
        return self.domain_suffixes.find(domain)


def build_index(providers: Sequence[Sequence[ProviderMatch]]) -> ProviderIndex:
    """Index the patterns of providers; each provider's number is its place."""
    found: dict[MatchKind, dict[str, set[int]]] = {kind: {} for kind in MatchKind}
    for number, matches in enumerate(providers):
        for match in matches:
            found[match.kind].setdefault(match.value, set()).add(number)
    frozen = {
        kind: {value: frozenset(numbers) for value, numbers in entries.items()}
        for kind, entries in found.items()
    }
    return ProviderIndex(
        mx_suffixes=_index_suffixes(frozen[MatchKind.MX_SUFFIX]),
        domain_suffixes=_index_suffixes(frozen[MatchKind.DOMAIN_SUFFIX]),
        host_names=frozen[MatchKind.HOST_NAME],
    )


def _index_suffixes(by_suffix: Mapping[str, frozenset[int]]) -> SuffixIndex:
    return SuffixIndex(by_suffix, tuple(sorted({len(suffix) for suffix in by_suffix})))
