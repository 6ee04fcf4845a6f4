"""
The sites of outcomes on which rules are tried: what lines say, what is known, and at worst a guess.

1. The hosts that a line names, or all lines were said to have.
2. The hosts of the site of that name, and the site of that domain, that the server knows.
3. The DNS, where it may be asked.
4. The hosts that the site's name stands for; where labels differ at several places it may stand
   for more hosts than there are.
"""

from collections.abc import Callable, Mapping

from msgspec.structs import replace

from policy_server.answering.questions import check_domain, check_source
from policy_server.automation.outcomes import Outcome
from policy_server.dns import MxResolver
from policy_server.errors import PolicyServerError
from policy_server.in_force.site_keeper import find_site
from policy_server.rules.resolve import Question
from policy_server.rules.site import MxHost, Site, guess_hosts, site_name
from policy_server.rules.snapshot import Snapshot
from policy_server.trials.outcome_lines import OutcomeLine

#: Sites that lines name, and domains that were looked up.
_MOST_KEPT = 20_000
_NO_SITES: Mapping[str, Site] = {}


class TrialSites:
    """What is known of sites while rules are tried."""

    def __init__(
        self,
        *,
        by_domain: Mapping[str, Site] = _NO_SITES,
        known_hosts: Callable[[str], tuple[MxHost, ...] | None] = lambda name: None,
        given: tuple[MxHost, ...] = (),
        resolver: MxResolver | None = None,
    ) -> None:
        self._by_domain = by_domain
        self._known_hosts = known_hosts
        self._given = given
        self._resolver = resolver
        self._seen: dict[str, tuple[MxHost, ...]] = {}
        self._looked_up: dict[str, Site | None] = {}
        #: Outcomes at a site that nothing is known of but the domain.
        self.unknown = 0

    async def place(self, line: OutcomeLine) -> Outcome:
        """Return the outcome of a line, with a site where the line leaves that open."""
        outcome = line.outcome
        if line.mx_hosts:
            self._note(outcome.site_name, line.mx_hosts)
        if not line.is_site_open:
            return outcome
        domain = outcome.routing_domain
        if self._given:
            name, hosts = site_name(domain, self._given), self._given
        elif (site := self._by_domain.get(domain) or await self._look_up(domain)) is not None:
            name, hosts = site.site_name, site.mx_hosts
        else:
            self.unknown += 1
            return replace(outcome, site_name=domain)
        self._note(name, hosts)
        return replace(outcome, site_name=name)

    def hosts_of(self, name: str, domain: str) -> tuple[MxHost, ...]:
        """List the hosts of a site; none for a domain without MX records, or if none are known."""
        found = self._seen.get(name)
        if found is None:
            found = self._known_hosts(name) or None
        if found is None:
            found = () if name == domain else guess_hosts(name)
        return found

    def _note(self, name: str, hosts: tuple[MxHost, ...]) -> None:
        if name in self._seen or len(self._seen) < _MOST_KEPT:
            self._seen[name] = hosts

    async def _look_up(self, domain: str) -> Site | None:
        if self._resolver is None:
            return None
        if domain not in self._looked_up:
            try:
                found: Site | None = (await find_site(self._resolver, domain)).site
            except PolicyServerError:
                found = None
            if len(self._looked_up) >= _MOST_KEPT:
                self._looked_up.clear()
            self._looked_up[domain] = found
        return self._looked_up[domain]


class TriedRules:
    """The rules that are tried, as matching asks for them."""

    def __init__(self, snapshot: Snapshot, sites: TrialSites) -> None:
        self.snapshot = snapshot
        self._sites = sites

    async def question(
        self, routing_domain: str, egress_source: str, site_name: str = ""
    ) -> Question:
        """Make the question of a path. Errors: `InvalidRequest`."""
        domain, source = check_domain(routing_domain), check_source(egress_source)
        return Question(
            routing_domain=domain,
            egress_source=source,
            site_name=site_name,
            mx_hosts=self._sites.hosts_of(site_name, domain),
        )
