"""Rules written as text, for tests."""

import tomllib
from collections.abc import Mapping, Sequence

from policy_server.rules.document import read_document
from policy_server.rules.layers import Layer
from policy_server.rules.parse import parse_layer
from policy_server.rules.resolve import Question
from policy_server.rules.site import MxHost, Site, normalise_domain, site_name
from policy_server.rules.snapshot import Snapshot, compile_snapshot

MxData = Mapping[str, Sequence[tuple[int, str]]]


def make_layer(name: str, rules: str) -> Layer:
    """Parse rules that have nothing wrong."""
    draft, issues = read_document(
        tomllib.loads(rules), name=name, file="", find_line=lambda path: None
    )
    layer, found = parse_layer(draft)
    assert not [issue for issue in (*issues, *found) if issue.severity == "error"]
    return layer


def make_sites(mx: MxData) -> dict[str, Site]:
    """Make the sites of MX data as the test data has it: preference and host."""
    sites = {}
    for domain, records in mx.items():
        hosts = tuple(MxHost(host, preference) for preference, host in records)
        sites[domain] = Site(domain=domain, site_name=site_name(domain, hosts), mx_hosts=hosts)
    return sites


def make_snapshot(layers: Sequence[Layer], mx: MxData) -> Snapshot:
    """Compile layers with all sites known."""
    return compile_snapshot(layers, sites=make_sites(mx), revision=1)


def ask(mx: MxData, domain: str, source: str = "ip-1") -> Question:
    """Ask as a client that knows the MX would."""
    hosts = tuple(
        MxHost(host, preference) for preference, host in mx.get(normalise_domain(domain), ())
    )
    return Question(
        routing_domain=domain,
        egress_source=source,
        site_name=site_name(domain, hosts),
        mx_hosts=hosts,
    )
