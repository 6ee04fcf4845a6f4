"""
Questions: which egress path is asked about, checked and in the form that rules compare.
"""

from collections.abc import Sequence

from policy_server.errors import InvalidRequest
from policy_server.rules.site import MxHost, normalise_domain, normalise_host
from policy_server.rules.values import InvalidValueError

_LONGEST_NAME = 255
_MAX_HOSTS = 200


def check_domain(text: str, *, field: str = "routing_domain") -> str:
    """Return a domain in the form that rules compare, or raise `InvalidRequest`."""
    try:
        domain = normalise_domain(text)
    except InvalidValueError as error:
        raise InvalidRequest(f'{field} "{text[:80]}": {error}', field=field) from error
    if not domain:
        raise InvalidRequest(f"{field} is required", field=field)
    if len(domain) > _LONGEST_NAME or any(sign.isspace() for sign in domain):
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


def check_hosts(hosts: Sequence[MxHost]) -> tuple[MxHost, ...]:
    """Return MX hosts in one order and spelling, so that equal sets are one question."""
    if len(hosts) > _MAX_HOSTS:
        message = f"mx_hosts has {len(hosts)} entries; at most {_MAX_HOSTS} are taken"
        raise InvalidRequest(message, field="mx_hosts")
    spelt = {MxHost(normalise_host(entry.host) or ".", entry.preference) for entry in hosts}
    return tuple(sorted(spelt, key=lambda entry: (entry.preference, entry.host)))
