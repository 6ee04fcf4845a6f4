"""
Questions: which egress path is asked about, checked and in the form that rules compare.
"""

from collections.abc import Sequence
from typing import Protocol

from policy_server.errors import InvalidRequest
from policy_server.rules.resolve import Question
from policy_server.rules.site import MxHost, normalise_domain, normalise_host
from policy_server.rules.site import site_name as make_site_name
from policy_server.rules.values import InvalidValueError

_LONGEST_NAME = 255
_MAX_HOSTS = 200


class HostEntry(Protocol):
    """What is looked at of an MX host: it may be a message, which is then not copied first."""

    @property
    def host(self) -> str:
        """Its name, in any spelling."""

    @property
    def preference(self) -> int:
        """Its preference."""


def make_question(
    routing_domain: str, egress_source: str, site_name: str, mx_hosts: Sequence[HostEntry]
) -> Question:
    """Make the question of a request that brings its MX hosts. Errors: `InvalidRequest`."""
    domain, hosts = check_domain(routing_domain), check_hosts(mx_hosts)
    return Question(
        routing_domain=domain,
        egress_source=check_source(egress_source),
        site_name=site_name or make_site_name(domain, hosts),
        mx_hosts=hosts,
    )


def check_domain(text: str, *, field: str = "routing_domain") -> str:
    """Return a domain in the form that rules compare, or raise `InvalidRequest`."""
    try:
        domain = normalise_domain(text)
    except InvalidValueError as error:
        raise InvalidRequest(f'{field} "{text[:80]}": {error}', field=field) from error
    if not domain:
        raise InvalidRequest(f"{field} is required", field=field)
    if len(domain) > _LONGEST_NAME or domain.split() != [domain]:
        raise InvalidRequest(f'{field} "{text[:80]}" is no domain name', field=field)
    return domain


def check_source(text: str) -> str:
    """Return the name of an egress source, or raise `InvalidRequest`."""
    if not text:
        raise InvalidRequest("egress_source is required", field="egress_source")
    if len(text) > _LONGEST_NAME:
        message = f"egress_source is longer than {_LONGEST_NAME} characters"
        raise InvalidRequest(message, field="egress_source")
    return text


def check_hosts(hosts: Sequence[HostEntry]) -> tuple[MxHost, ...]:
    """Return MX hosts in one order and spelling, so that equal sets are one question."""
    if len(hosts) > _MAX_HOSTS:
        message = f"mx_hosts has {len(hosts)} entries; at most {_MAX_HOSTS} are taken"
        raise InvalidRequest(message, field="mx_hosts")
    spelt = {(entry.preference, normalise_host(entry.host) or ".") for entry in hosts}
    return tuple([MxHost(host, preference) for preference, host in sorted(spelt)])
