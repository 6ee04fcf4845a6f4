"""
The sites that are known, by domain, and the hosts of each site name.

What is handed out never changes: tables are copied before a part of them is replaced.
"""

from collections.abc import Mapping

from policy_server.rules.site import MxHost, host_set
from policy_server.store.sites import StoredSite


class KnownSites:
    """The last known site of each domain."""

    def __init__(self) -> None:
        self._domains: dict[str, tuple[str, ...]] = {}
        #: The sites by domain.
        self.by_domain: Mapping[str, StoredSite] = {}
        #: Host sets by site name; a name that stands for two host sets is left out.
        self.hosts: Mapping[str, tuple[MxHost, ...]] = {}

    def renew(self, stored: Mapping[str, StoredSite]) -> None:
        """Note later expiries of sites that are otherwise as they were."""
        self.by_domain = {**self.by_domain, **stored}

    def update(self, changed: Mapping[str, StoredSite | None]) -> None:
        """Note the sites of domains; None for one that is not known any more."""
        by_domain, names = dict(self.by_domain), set()
        for domain, stored in changed.items():
            old = by_domain.pop(domain, None)
            if old is not None:
                names.add(old.site.site_name)
                self._leave(domain, old.site.site_name)
            if stored is not None:
                names.add(stored.site.site_name)
                by_domain[domain] = stored
                present = self._domains.get(stored.site.site_name, ())
                self._domains[stored.site.site_name] = (*present, domain)
        self.by_domain = by_domain
        self._index(names)

    def _leave(self, domain: str, site_name: str) -> None:
        left = tuple(other for other in self._domains[site_name] if other != domain)
        if left:
            self._domains[site_name] = left
        else:
            del self._domains[site_name]

    def _index(self, names: set[str]) -> None:
        hosts = dict(self.hosts)
        for name in names:
            sites = [self.by_domain[domain].site for domain in self._domains.get(name, ())]
            is_one = len(sites) == 1 or len({host_set(site.mx_hosts) for site in sites}) == 1
            if is_one:
                hosts[name] = sites[0].mx_hosts
            else:
                hosts.pop(name, None)
        self.hosts = hosts
