"""Which scopes of the rules a question falls into, and whether that singles its domain out."""

from collections.abc import Iterator

import msgspec

from policy_server.rules.layers import AutomationRule, Block, OptionAction
from policy_server.rules.site import MxHost, host_set, normalise_domain
from policy_server.rules.snapshot import Provider, ScopeBlocks, Snapshot


class Question(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What is asked: how may mail for a domain leave from a source."""

    routing_domain: str
    egress_source: str
    #: Already worked out; empty for a null MX.
    site_name: str
    #: Known hosts of the site; empty where they are not known or the domain has no MX records.
    mx_hosts: tuple[MxHost, ...] = ()


class MatchedProvider(msgspec.Struct, frozen=True, gc=False):
    """A provider that a question falls into."""

    provider: Provider
    #: Its MX patterns don't match, only a domain suffix does.
    by_domain_only: bool


class Scopes(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The scopes of one question."""

    default: ScopeBlocks
    #: In the order of the rules.
    providers: tuple[MatchedProvider, ...]
    #: Domains with roll-up.
    site: tuple[ScopeBlocks, ...]
    #: The domain without roll-up.
    domain: ScopeBlocks


_NO_BLOCKS = ScopeBlocks()


def find_scopes(snapshot: Snapshot, question: Question) -> Scopes:
    """Find the scopes that *question* falls into."""
    domain = normalise_domain(question.routing_domain)
    hosts = host_set(question.mx_hosts)
    return Scopes(
        default=snapshot.default,
        providers=_match_providers(snapshot, domain, hosts),
        site=tuple(_find_site(snapshot, domain, hosts, question.site_name)),
        domain=snapshot.domains.get(domain, _NO_BLOCKS),
    )


def _match_providers(
    snapshot: Snapshot, domain: str, hosts: frozenset[str]
) -> tuple[MatchedProvider, ...]:
    by_hosts = snapshot.provider_index.match_hosts(hosts)
    by_domain = snapshot.provider_index.match_domain(domain)
    if not by_hosts and not by_domain:
        return ()
    return tuple(
        MatchedProvider(snapshot.providers[number], number not in by_hosts)
        for number in sorted(by_hosts | by_domain)
    )


def _find_site(
    snapshot: Snapshot, domain: str, hosts: frozenset[str], site_name: str
) -> Iterator[ScopeBlocks]:
    if not site_name:
        return
    found = snapshot.sites.get(site_name, ())
    if len(found) == 1 and not hosts:
        yield found[0].blocks
    else:
        # Hosts tell sites of one name apart; where they are not known, none of these is guessed.
        wanted = hosts or frozenset({domain})
        yield from (rules.blocks for rules in found if rules.hosts == wanted)
    if domain in snapshot.unplaced:
        yield snapshot.unplaced[domain]


def is_singled_out(scopes: Scopes, source: str) -> bool:
    """
    Whether the domain gets a path of its own, apart from its site.

    It does when a rule for it alone, or for it by its name's suffix, says anything of an option,
    and when automation of its own may set one. The path must not change its name as an action
    begins or ends: queues and counters go by it.
    """
    by_suffix = (m.provider.blocks for m in scopes.providers if m.by_domain_only)
    return any(_sets_option(block) for block in _blocks_of(scopes.domain, source)) or any(
        block.options for blocks in by_suffix for block in _blocks_of(blocks, source)
    )


def _sets_option(block: Block) -> bool:
    return bool(block.options) or any(map(_may_set_option, block.automation))


def _may_set_option(rule: AutomationRule) -> bool:
    acts = not rule.observe
    return acts and any(isinstance(action, OptionAction) for action in rule.actions)


def _blocks_of(blocks: ScopeBlocks, source: str) -> tuple[Block, ...]:
    return (*blocks.base, *blocks_for(blocks, source))


def blocks_for(blocks: ScopeBlocks, source: str) -> tuple[Block, ...]:
    """Return the blocks that one source alone has."""
    return blocks.by_source.get(source, ())


def consulted_rules(snapshot: Snapshot, question: Question) -> tuple[AutomationRule, ...]:
    """
    Return the automation rules for outcomes of *question*'s path, all of which may match.

    In order: `default`, each matching provider, the site, the domain.
    """
    scopes = find_scopes(snapshot, question)
    ordered = (
        scopes.default,
        *(matched.provider.blocks for matched in scopes.providers),
        *scopes.site,
        scopes.domain,
    )
    return tuple(
        rule
        for blocks in ordered
        for block in _blocks_of(blocks, question.egress_source)
        for rule in block.automation
    )
