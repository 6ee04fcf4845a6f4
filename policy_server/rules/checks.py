"""
Checks over all layers together: what is allowed, and yet rarely meant.

What is wrong by itself is found by `parse`; these need the other layers or the sites of domains.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from enum import StrEnum
from types import MappingProxyType

from policy_server.rules.issues import block_title
from policy_server.rules.layers import Block, Issue, Layer, Scope, Severity
from policy_server.rules.scopes import Question, find_scopes
from policy_server.rules.site import Site
from policy_server.rules.snapshot import SiteRules, Snapshot, compile_snapshot, site_hosts


class CheckLevel(StrEnum):
    """What becomes of a check that finds something."""

    IGNORE = "ignore"
    WARN = "warn"
    ERROR = "error"


#: The checks, with the level they have unless told otherwise.
DEFAULT_LEVELS: Mapping[str, CheckLevel] = MappingProxyType(
    dict.fromkeys(
        (
            "aliased_site",
            "dns_fail",
            "null_mx",
            "provider_overlap",
            "site_collision",
            "provider_without_match",
        ),
        CheckLevel.WARN,
    )
)


def check_layers(
    layers: Sequence[Layer],
    sites: Mapping[str, Site],
    *,
    failed: Collection[str] = (),
    levels: Mapping[str, CheckLevel] = DEFAULT_LEVELS,
) -> tuple[Issue, ...]:
    """
    Check *layers* together; *sites* has those that are known, *failed* names the domains among
    them whose look-up failed now.

    Checks that *levels* does not name keep their default level.
    """
    snapshot = compile_snapshot(layers, sites=sites, revision=0)
    named = _first_blocks(layers)
    found = (
        *_check_lookups(named, sites, failed),
        *_check_aliases(named, sites),
        *_check_collisions(named, sites),
        *_check_overlaps(named, sites, snapshot),
        *_check_providers(layers),
    )
    chosen = {**DEFAULT_LEVELS, **levels}
    return tuple(
        _at_level(issue, chosen) for issue in found if chosen[issue.code] is not CheckLevel.IGNORE
    )


def find_collisions(snapshot: Snapshot) -> tuple[Issue, ...]:
    """Warn of site names in *snapshot* that stand for more than one host set."""
    shared = [(name, rules) for name, rules in snapshot.sites.items() if len(rules) > 1]
    return tuple(
        _collision(block, first.name, site_name)
        for site_name, groups in shared
        for (first, *_), *others in (list(map(_domains_of, groups)),)
        for domains in others
        for block in domains
    )


def _domains_of(rules: SiteRules) -> list[Block]:
    """Return the first block of each domain in a site's rules."""
    blocks = (rules.blocks.base, *rules.blocks.by_source.values())
    return list(
        {block.name: block for group in reversed(blocks) for block in reversed(group)}.values()
    )[::-1]


def _collision(block: Block, other: str, site_name: str) -> Issue:
    message = (
        f"{block.name} and {other} have different MX hosts that make the same site name,"
        f" {site_name}: each block applies only where the hosts are its own"
    )
    return _issue("site_collision", block, message)


def _at_level(issue: Issue, levels: Mapping[str, CheckLevel]) -> Issue:
    is_error = levels[issue.code] is CheckLevel.ERROR
    return replace(issue, severity=Severity.ERROR if is_error else Severity.WARNING)


def _first_blocks(layers: Iterable[Layer]) -> dict[str, Block]:
    """Return the first block of each rolled-up domain."""
    named: dict[str, Block] = {}
    for layer in layers:
        for block in layer.blocks if layer.enabled else ():
            if block.scope is Scope.DOMAIN and block.mx_rollup:
                named.setdefault(block.name, block)
    return named


def _issue(code: str, block: Block, message: str) -> Issue:
    return Issue(
        code=code,
        message=message,
        severity=Severity.WARNING,
        block=block_title(block.scope, block.name, block.source),
        value=block.name or None,
        block_id=block.id or None,
    )


def _check_lookups(
    named: Mapping[str, Block], sites: Mapping[str, Site], failed: Collection[str]
) -> Iterator[Issue]:
    for domain, block in named.items():
        if domain in sites and domain in failed:
            message = (
                f"the MX of {domain} could not be looked up: its last known site,"
                f" {sites[domain].site_name or 'none'}, stays in force"
            )
            yield _issue("dns_fail", block, message)
        if domain not in sites:
            message = (
                f"the MX of {domain} could not be looked up: until it can, the block applies to"
                " that domain alone; write mx_rollup = false if it has no site"
            )
            yield _issue("dns_fail", block, message)
        elif not sites[domain].site_name:
            message = (
                f"{domain} has a null MX and no site, so the block never applies;"
                " write mx_rollup = false if it is meant"
            )
            yield _issue("null_mx", block, message)


def _check_aliases(named: Mapping[str, Block], sites: Mapping[str, Site]) -> Iterator[Issue]:
    first: dict[tuple[str, frozenset[str]], str] = {}
    for domain, block in named.items():
        site = sites.get(domain)
        if site is None or not site.site_name:
            continue
        other = first.setdefault((site.site_name, site_hosts(domain, site)), domain)
        if other != domain:
            message = (
                f"{domain} and {other} have the same site, {site.site_name}: both blocks apply to"
                " both, the later wins; keep one of them"
            )
            yield _issue("aliased_site", block, message)


def _check_collisions(named: Mapping[str, Block], sites: Mapping[str, Site]) -> Iterator[Issue]:
    first: dict[str, tuple[str, frozenset[str]]] = {}
    for domain, block in named.items():
        site = sites.get(domain)
        if site is None or not site.site_name:
            continue
        hosts = site_hosts(domain, site)
        other, other_hosts = first.setdefault(site.site_name, (domain, hosts))
        if other_hosts != hosts:
            yield _collision(block, other, site.site_name)


def _check_overlaps(
    named: Mapping[str, Block], sites: Mapping[str, Site], snapshot: Snapshot
) -> Iterator[Issue]:
    for domain, block in named.items():
        site = sites.get(domain)
        if site is None:
            continue
        question = Question(
            routing_domain=domain,
            egress_source="",
            site_name=site.site_name,
            mx_hosts=site.mx_hosts,
        )
        for matched in find_scopes(snapshot, question).providers:
            message = (
                f"{domain} is matched by provider {matched.provider.name} as well:"
                " the block's values win over the provider's"
            )
            yield _issue("provider_overlap", block, message)


def _check_providers(layers: Iterable[Layer]) -> Iterator[Issue]:
    blocks = [
        block
        for layer in layers
        if layer.enabled
        for block in layer.blocks
        if block.scope is Scope.PROVIDER
    ]
    matching = {block.name for block in blocks if block.matches}
    reported: set[str] = set()
    for block in blocks:
        if block.name not in matching and block.name not in reported:
            reported.add(block.name)
            message = f"provider {block.name} has no match in any layer, so its blocks never apply"
            yield _issue("provider_without_match", block, message)
