"""
The egress paths that one stream watches: what the client holds of each, and where to find them.

Memory is proportional to the subscribed names. What is sent when is decided in `watch_stream`.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

from policy_server.automation.actions import ActionScope
from policy_server.rules.book import RulesChange
from policy_server.rules.resolve import Question
from policy_server.rules.site import MxHost


@dataclass(slots=True, kw_only=True)
class WatchedPath:
    """One subscription."""

    name: str
    routing_domain: str
    egress_source: str
    site_name: str
    mx_hosts: tuple[MxHost, ...]
    #: None while the site is not known.
    question: Question | None = None
    #: Of the answer that the client holds; empty: none.
    etag: str = ""

    @property
    def is_open(self) -> bool:
        """Whether the server finds the hosts, so that the question may change by itself."""
        return not self.mx_hosts


class WatchedPaths:
    """The subscriptions of one stream, by name, site and domain."""

    def __init__(self) -> None:
        self._paths: dict[str, WatchedPath] = {}
        #: Names as keys, so that they keep their order and a run is the same each time.
        self._by_site: defaultdict[str, dict[str, None]] = defaultdict(dict)
        self._by_domain: defaultdict[str, dict[str, None]] = defaultdict(dict)
        #: Names whose client was only told to ask again, the oldest first.
        self._assumed: dict[str, None] = {}

    def __len__(self) -> int:
        return len(self._paths)

    def get(self, name: str) -> WatchedPath | None:
        """Find a subscription by its name."""
        return self._paths.get(name)

    def names(self) -> list[str]:
        """List the names subscribed."""
        return list(self._paths)

    def open_among(self, names: Iterable[str]) -> list[str]:
        """List those of *names* whose questions the server makes out itself."""
        return [name for name in names if (path := self._paths.get(name)) and path.is_open]

    def put(self, path: WatchedPath) -> None:
        """Add a subscription, in the place of one of the same name."""
        self.remove(path.name)
        self._paths[path.name] = path

    def remove(self, name: str) -> bool:
        """Remove a subscription; say whether there was one."""
        path = self._paths.pop(name, None)
        if path is None:
            return False
        self._assumed.pop(name, None)
        self._leave_site(path)
        return True

    @property
    def assumed(self) -> int:
        """Of how many paths the client was only told to ask again, and is not known to have."""
        return len(self._assumed)

    def oldest_assumed(self, limit: int) -> list[str]:
        """List up to *limit* names of such paths, those that were told of first before others."""
        return list(islice(self._assumed, limit))

    def assume(self, path: WatchedPath, etag: str) -> None:
        """The client was told to ask again, and would be answered with *etag*."""
        path.etag = etag
        self._assumed[path.name] = None

    def hold(self, path: WatchedPath, etag: str) -> None:
        """The client was sent the answer with *etag*."""
        path.etag = etag
        self._assumed.pop(path.name, None)

    def is_assumed(self, path: WatchedPath) -> bool:
        """Whether what the client holds is not certain."""
        return path.name in self._assumed

    def note_fetched(self, question: Question, etag: str) -> bool:
        """The client asked by itself and was answered with *etag*; say whether it was to."""
        was_due = False
        for name in self._by_domain.get(question.routing_domain, ()):
            path = self._paths[name]
            if name in self._assumed and path.question == question and path.etag == etag:
                del self._assumed[name]
                was_due = True
        return was_due

    def settle(self, path: WatchedPath, question: Question) -> None:
        """Set the question of a subscription."""
        self._leave_site(path)
        path.question = question
        self._by_site[question.site_name][path.name] = None
        self._by_domain[question.routing_domain][path.name] = None

    def names_in(self, scopes: Iterable[ActionScope]) -> dict[str, None]:
        """List the names whose answers actions of these scopes are part of."""
        found: dict[str, None] = {}
        for scope in scopes:
            # What holds for a domain follows it to another site.
            of_domain, of_site = scope.routing_domain, scope.site_name
            named = self._by_domain.get(of_domain) if of_domain else self._by_site.get(of_site)
            for name in named or ():
                question = self._paths[name].question
                if question and question.egress_source == scope.egress_source:
                    found[name] = None
        return found

    def names_concerned(self, change: RulesChange) -> dict[str, None]:
        """List the names whose answers a change of rules can concern, if it is not wide."""
        found = {path.name: None for path in self._paths.values() if path.question is None}
        for site in sorted(change.sites):
            found.update(self._by_site.get(site, {}))
        for domain in sorted(change.domains):
            found.update(self._by_domain.get(domain, {}))
        return found

    def _leave_site(self, path: WatchedPath) -> None:
        if path.question is None:
            return
        for table, key in (
            (self._by_site, path.question.site_name),
            (self._by_domain, path.question.routing_domain),
        ):
            table[key].pop(path.name, None)
            if not table[key]:
                del table[key]
