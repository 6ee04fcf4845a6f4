"""
Questions: which egress path is asked about, checked and in the form that rules compare.
"""

from collections.abc import Sequence
from typing import Protocol

from policy_server.errors import InvalidRequest
from policy_server.rules.issues import and_more
from policy_server.rules.resolve import Question
from policy_server.rules.site import MxHost, normalise_domain, normalise_host
from policy_server.rules.site import site_name as make_site_name
from policy_server.rules.values import InvalidValueError, has_control

_LONGEST_NAME = 255
_MAX_HOSTS = 200
#: RFC 1035 3.1, as a text without the last dot.
_LONGEST_HOST = 253
_MAX_PREFERENCE = 65_535


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
        site_name=check_site(site_name) or make_site_name(domain, hosts),
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
    if len(domain) > _LONGEST_NAME or domain.split() != [domain] or has_control(domain):
        raise InvalidRequest(f'{field} "{text[:80]}" is no domain name', field=field)
    return domain


def check_source(text: str) -> str:
    """Return the name of an egress source, or raise `InvalidRequest`."""
    if not text:
        raise InvalidRequest("egress_source is required", field="egress_source")
    if len(text) > _LONGEST_NAME:
        message = f"egress_source is longer than {_LONGEST_NAME} characters"
        raise InvalidRequest(message, field="egress_source")
    return _check_control(text, field="egress_source")


def check_site(text: str) -> str:
    """Return the name of a site, which may be empty, or raise `InvalidRequest`."""
    return _check_control(text, field="site_name")


def check_hosts(hosts: Sequence[HostEntry]) -> tuple[MxHost, ...]:
    """
    Return MX hosts in one order and spelling, so that equal sets are one question, or raise
    `InvalidRequest` with all that is wrong with them.
    """
    if len(hosts) > _MAX_HOSTS:
        message = f"mx_hosts has {len(hosts)} entries; at most {_MAX_HOSTS} are taken"
        raise InvalidRequest(message, field="mx_hosts")
    spelt = {(entry.preference, _spell_host(entry.host)) for entry in hosts}
    if any(not host or preference > _MAX_PREFERENCE for preference, host in spelt):
        raise _to_error(hosts)
    return tuple([MxHost(host, preference) for preference, host in sorted(spelt)])


def _spell_host(text: str) -> str:
    """Spell a host as it is compared, in A-labels; "." for a null MX, empty for no host name."""
    host = normalise_host(text) or "."
    if not host.isascii():
        try:
            host = normalise_domain(host)
        except InvalidValueError:
            return ""
    # Of ASCII all but control characters is printable.
    is_name = len(host) <= _LONGEST_HOST and host.isprintable() and " " not in host
    return host if is_name else ""


def _to_error(hosts: Sequence[HostEntry]) -> InvalidRequest:
    found = []
    for index, entry in enumerate(hosts):
        place = f"mx_hosts[{index}]"
        if not _spell_host(entry.host):
            # What was given is left out: of many there would be no room for it.
            found.append((f"{place}.host", "is no host name"))
        if entry.preference > _MAX_PREFERENCE:
            found.append((f"{place}.preference", f"is at most {_MAX_PREFERENCE}"))
    field, text = found[0]
    message = f"{field} {text}{and_more(len(found) - 1)}"
    return InvalidRequest(message, field=field, violations=found)


def _check_control(text: str, *, field: str) -> str:
    if has_control(text):
        raise InvalidRequest(f"{field} has a control character", field=field)
    return text
