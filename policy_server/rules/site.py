"""
Sites: the label made from a domain's whole MX host set.

A site name is a label for people and for comparing, not a pattern, and two different host sets
can make the same one; who must not confuse them compares `host_set` as well.
"""

import ipaddress
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass

import idna
import msgspec

from policy_server.rules.values import InvalidValueError

#: More hosts than a label is taken for.
_MOST_GUESSED = 200
# Host names have no dots within their labels, so those outside of brackets part them.
_SPLIT = re.compile(r"\.(?![^(]*\))")
_PART = re.compile(
    r"(?:\((?P<several>[^()|.?]+(?:\|[^()|.?]+)*)\)|(?P<one>[^()|.?]+))(?P<optional>\?)?"
)


#: Hosts that a site name may stand for, beyond which it tells nothing.
_MOST_POSSIBLE = 256


class MxHost(msgspec.Struct, frozen=True, order=True, gc=False):
    """One entry of a domain's MX answer."""

    #: "." for a null MX (RFC 7505).
    host: str
    preference: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What is known of a domain's site."""

    domain: str
    #: Empty for a null MX.
    site_name: str
    #: Empty where the domain exists without MX records.
    mx_hosts: tuple[MxHost, ...]


def normalise_domain(text: str) -> str:
    """
    Return a domain as it is compared: lower case, A-labels, no trailing dot.

    Raise `InvalidValueError` for one that has no A-label form.

    >>> normalise_domain("Bücher.Example.")
    'xn--bcher-kva.example'
    """
    lowered = text.strip().lower().removesuffix(".")
    if lowered.isascii():
        return lowered
    # A leading dot is no label: suffix patterns begin with one.
    dot, name = ("." if lowered.startswith(".") else ""), lowered.removeprefix(".")
    try:
        return dot + idna.encode(name, uts46=True).decode("ascii")
    except idna.IDNAError as error:
        raise InvalidValueError(f"no domain name: {error}") from None


def normalise_host(host: str) -> str:
    """Return an MX host as it is compared: lower case, no trailing dots; '' for a null MX."""
    return host.strip().lower().rstrip(".")


def is_null_mx(mx_hosts: Sequence[MxHost]) -> bool:
    """Whether the MX answer says that the domain takes no mail (RFC 7505)."""
    return bool(mx_hosts) and not host_set(mx_hosts)


def host_set(mx_hosts: Sequence[MxHost]) -> frozenset[str]:
    """Return the hosts without their preferences, normalised."""
    return frozenset(host for entry in mx_hosts if (host := normalise_host(entry.host)))


def read_address_literal(domain: str) -> str | None:
    """
    Return the bare address of an address literal (RFC 5321 4.1.3), None for a name.

    >>> read_address_literal("[IPv6:2001:db8::1]")
    '2001:db8::1'
    """
    if not (domain.startswith("[") and domain.endswith("]")):
        return None
    text = domain[1:-1]
    bare = text[5:] if text.lower().startswith("ipv6:") else text
    try:
        return str(ipaddress.ip_address(bare))
    except ValueError:
        return None


def site_name(domain: str, mx_hosts: Sequence[MxHost]) -> str:
    """
    Make the site name of *domain* from its MX answer.

    >>> site_name("y.example", [MxHost("mta6.y.example."), MxHost("MTA5.y.example")])
    '(mta5|mta6).y.example'
    """
    address = read_address_literal(domain)
    if address is not None:
        return address
    if not mx_hosts:
        return normalise_domain(domain)
    if len(mx_hosts) == 1:
        return normalise_host(mx_hosts[0].host)
    ordered = sorted((entry.preference, normalise_host(entry.host)) for entry in mx_hosts)
    hosts = list(dict.fromkeys(host for _, host in ordered if host))
    return hosts[0] if len(hosts) == 1 else _factor(hosts)


def guess_hosts(label: str) -> tuple[MxHost, ...]:
    """
    List the hosts that a site name may stand for: the true ones and, where labels differ at several
    places, more. None for what is no site name, or stands for very many.

    >>> [entry.host for entry in guess_hosts("(mta5|mta6).am0.y.example")]
    ['mta5.am0.y.example', 'mta6.am0.y.example']
    """
    choices: list[tuple[str, ...]] = []
    count = 1
    for part in _SPLIT.split(label):
        found = _PART.fullmatch(part)
        if found is None:
            return ()
        labels = tuple((found["several"] or found["one"]).split("|"))
        choices.append((*labels, "") if found["optional"] else labels)
        count *= len(choices[-1])
        if count > _MOST_GUESSED:
            return ()
    names = (".".join(filter(None, chosen)) for chosen in itertools.product(*choices))
    return tuple(MxHost(name) for name in dict.fromkeys(names) if name)


def possible_hosts(site_name: str) -> tuple[str, ...]:
    """
    List the hosts that *site_name* may have been made from.

    All of them are in it; where labels at several places differ, more than those may be. Empty
    where that would be very many.

    >>> possible_hosts("(mta5|mta6).y.example")
    ('mta5.y.example', 'mta6.y.example')
    >>> possible_hosts("(alt1)?.mx.y.example")
    ('alt1.mx.y.example', 'mx.y.example')
    """
    longest, shorter = [""], []
    for label in reversed(site_name.split(".")):
        if label.endswith("?"):
            shorter += longest
        labels = label.removesuffix("?").removeprefix("(").removesuffix(")").split("|")
        longest = [f"{one}.{rest}" if rest else one for one in labels for rest in longest]
        if len(longest) + len(shorter) > _MOST_POSSIBLE:
            return ()
    return tuple(host for host in (*longest, *shorter) if host)


def _factor(hosts: Sequence[str]) -> str:
    rows = [host.split(".")[::-1] for host in hosts]
    depth = max(map(len, rows), default=0)
    return ".".join(_join_labels(rows, position) for position in reversed(range(depth)))


def _join_labels(rows: Sequence[Sequence[str]], position: int) -> str:
    labels = list(dict.fromkeys(row[position] for row in rows if len(row) > position))
    joined = labels[0] if len(labels) == 1 else f"({'|'.join(labels)})"
    return joined + ("?" if any(len(row) <= position for row in rows) else "")
