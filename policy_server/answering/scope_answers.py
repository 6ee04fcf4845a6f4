"""
What an answer says whatever the names in its question: worked out once for all questions that fall
into the same scopes of the rules.

A fleet asks about very many domains, of which few have rules of their own: all others are told the
same, but for the names of their site and path. The configuration is most of an answer, and most of
the work that it makes.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Self

import msgspec
from google.protobuf.duration_pb2 import Duration

from penstock.v1.egress_path_pb2 import REFRESH_STRATEGY_EPOCH, EgressPathConfig
from penstock.v1.policy_service_pb2 import GetEgressPathConfigResponse
from policy_server.answering.limit_refs import AnsweredLimit, find_limits
from policy_server.answering.wire_form import serialise, write_field
from policy_server.rules.config import to_config
from policy_server.rules.resolve import Override, merge_scopes
from policy_server.rules.scopes import Scopes

_PROVIDER_NAMES = GetEgressPathConfigResponse.PROVIDER_NAMES_FIELD_NUMBER
_MAX_AGE = GetEgressPathConfigResponse.MAX_AGE_FIELD_NUMBER
_NO_REFRESH = Duration(seconds=24 * 60 * 60)
#: Of each some 1.5 kB.
_KEPT = 20_000


class ScopeAnswer(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The part of an answer that all questions in the same scopes, from one source, share."""

    #: An EgressPathConfig, as it goes over the wire.
    config: bytes
    limits: tuple[AnsweredLimit, ...]
    #: Further fields of the response: the providers, and for how long the answer may be used.
    facts: bytes
    #: The domain has a path of its own, apart from its site.
    is_alone: bool

    @classmethod
    def of(cls, scopes: Scopes, source: str, overrides: Sequence[Override] = ()) -> Self:
        """Work it out from what the rules say, and then *overrides*, which are in their order."""
        merged = merge_scopes(scopes, source, overrides)
        config = to_config(merged)
        return cls(
            config=serialise(config),
            limits=tuple(find_limits(config)),
            facts=_write_facts(merged.provider_names, config),
            is_alone=merged.is_alone,
        )


class ScopeAnswers:
    """Those worked out last, of the scopes that are in force; not to be used by two threads."""

    def __init__(self, kept: int = _KEPT) -> None:
        self._kept = kept
        #: With the scopes that each was made of: what they consist of is known by identity, which
        #: is its own only for as long as it is held.
        self._known: OrderedDict[tuple[str | int, ...], tuple[Scopes, ScopeAnswer]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def find(self, scopes: Scopes, source: str) -> ScopeAnswer:
        """Return what the scopes give for a source; it is known where they are the same objects."""
        key = _identify(scopes, source)
        known = self._known.get(key)
        if known is not None:
            self._known.move_to_end(key)
            return known[1]
        found = ScopeAnswer.of(scopes, source)
        self._known[key] = scopes, found
        if len(self._known) > self._kept:
            self._known.popitem(last=False)
        return found


def _identify(scopes: Scopes, source: str) -> tuple[str | int, ...]:
    """
    Name what a merge depends on: blocks that did not change stay the same objects when rules do.

    The source is left out where nothing is said for one source alone, and no provider implies
    limits, which are named after it.
    """
    own = (scopes.default, *scopes.site, scopes.domain)
    if not scopes.providers and not any(blocks.by_source for blocks in own):
        source = ""
    key: list[str | int] = [source, *map(id, own)]
    for matched in scopes.providers:
        key += id(matched.provider), matched.by_domain_only
    return tuple(key)


def _write_facts(provider_names: Sequence[str], config: EgressPathConfig) -> bytes:
    names = (write_field(_PROVIDER_NAMES, name.encode()) for name in provider_names)
    # Of an epoch, only a change of rules ends it, and watching clients hear of that.
    is_epoch = config.refresh_strategy == REFRESH_STRATEGY_EPOCH
    max_age = _NO_REFRESH if is_epoch else config.refresh_interval
    return b"".join((*names, write_field(_MAX_AGE, serialise(max_age))))
