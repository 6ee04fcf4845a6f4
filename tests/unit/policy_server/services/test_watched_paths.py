"""Which watched paths a change of rules can concern."""

import pytest

from policy_server.rules.book import RuleBook, RulesChange
from policy_server.rules.resolve import Question
from policy_server.services.watched_paths import WatchedPath, WatchedPaths


def _paths():
    paths = WatchedPaths()
    for name, site in (("a.example", "one"), ("b.example", "one"), ("c.example", "two")):
        path = WatchedPath(
            name=name, routing_domain=name, egress_source="ip-1", site_name=site, mx_hosts=()
        )
        paths.put(path)
        question = Question(routing_domain=name, egress_source="ip-1", site_name=site)
        paths.settle(path, question)
    return paths


@pytest.mark.parametrize(
    ("sites", "domains", "concerned"),
    [
        ({"one"}, set(), {"a.example", "b.example"}),
        (set(), {"c.example", "other.example"}, {"c.example"}),
        ({"two"}, {"a.example"}, {"a.example", "c.example"}),
        (set(), set(), set()),
    ],
)
def test_a_change_concerns_the_paths_of_its_sites_and_domains(sites, domains, concerned):
    change = RulesChange(
        after=RuleBook().compile(0).after, sites=frozenset(sites), domains=frozenset(domains)
    )
    paths = _paths()

    assert paths.names_concerned(change).keys() == concerned
    paths.remove("a.example")
    assert paths.names_concerned(change).keys() == concerned - {"a.example"}


def test_a_path_without_an_answer_is_looked_at_after_every_change():
    paths = WatchedPaths()
    paths.put(
        WatchedPath(
            name="x", routing_domain="x.example", egress_source="ip-1", site_name="", mx_hosts=()
        )
    )

    change = RulesChange(after=RuleBook().compile(0).after)
    assert paths.names_concerned(change).keys() == {"x"}
