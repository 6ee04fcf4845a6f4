"""
Zone: which answer a name has, for the loopback DNS server. No input or output here but `load_zone`.

A zone is a mapping, read from TOML (`[dns]` of a sink's configuration) or JSON:

    ttl = 60                                        # seconds
    default_a = ["127.0.0.1"]                       # for MX hosts that have no address of their own
    [mx]
    "bigmail.example" = [[10, "mx1.bigmail.example"], [20, "mx2.bigmail.example"]]
    "nomail.example"  = [[0, "."]]                  # null MX (RFC 7505)
    "plain.example"   = []                          # exists, has no MX record
    [a]
    "mx1.bigmail.example" = ["127.0.2.1"]
    [aaaa]
    "mx2.bigmail.example" = ["::1"]
    [txt]
    "_mta-sts.bigmail.example" = ["v=STSv1; id=1;"]
    [tlsa]
    "_25._tcp.mx1.bigmail.example" = ["3 1 1 0123…"]    # usage, selector, matching type, data
    [cname]
    "mail.bigmail.example" = ["mx1.bigmail.example"]
    [faults]
    "broken.example" = "servfail"                   # or "refused", or "timeout": never answered

    secure = ["bigmail.example"]                    # answered as if DNSSEC had been checked

Names at and below those in `secure` get the AD bit, where the question asks for it and all aliases
on the way are secure too. Nothing is signed: this stands for a validating resolver.

Other keys at the top level are ignored when they are text ("about" in a JSON file).
"""

import json
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rrset

_IN = dns.rdataclass.IN
_TEXT_TYPES = {
    "a": dns.rdatatype.A,
    "aaaa": dns.rdatatype.AAAA,
    "txt": dns.rdatatype.TXT,
    "tlsa": dns.rdatatype.TLSA,
    "cname": dns.rdatatype.CNAME,
}
_LEADS_TO_ADDRESS = (dns.rdatatype.A, dns.rdatatype.AAAA, dns.rdatatype.CNAME)
#: Aliases that are followed.
_MOST_ALIASES = 8


class Fault(StrEnum):
    """Ways in which a name fails to be answered."""

    SERVFAIL = "servfail"
    REFUSED = "refused"
    TIMEOUT = "timeout"


@dataclass(frozen=True, slots=True, kw_only=True)
class Zone:
    """All names that the server knows; keys are lower case without the trailing dot."""

    #: (name, record type) -> presentation form of each record; an empty tuple: no such record.
    records: Mapping[tuple[str, dns.rdatatype.RdataType], tuple[str, ...]]
    faults: Mapping[str, Fault] = field(default_factory=dict)
    #: Addresses of every MX host that has none of its own.
    default_a: tuple[str, ...] = ()
    #: Seconds; of negative answers too.
    ttl: int = 60
    #: Names at and below which answers are secure.
    secure: tuple[str, ...] = ()

    @classmethod
    def from_mapping(cls, table: Mapping[str, Any]) -> "Zone":
        """Read the format of the module docstring; ValueError names every mistake."""
        mistakes: list[str] = []
        records = dict(_mx_records(table.get("mx", {}), mistakes))
        for key, rdtype in _TEXT_TYPES.items():
            for name, addresses in _tables(table, key, mistakes):
                records[_key(name), rdtype] = tuple(_text(key, one) for one in addresses)
        default_a = tuple(table.get("default_a", ()))
        _add_default_addresses(records, default_a)
        _check_records(records, mistakes)
        faults = _faults(table.get("faults", {}), mistakes)
        secure = tuple(_key(str(name)) for name in table.get("secure", ()))
        ttl = table.get("ttl", 60)
        if not isinstance(ttl, int) or ttl < 0:
            mistakes.append(f"ttl {ttl!r}: expected a number of seconds, 0 or more")
        mistakes += _unknown_keys(table)
        if mistakes:
            raise ValueError("; ".join(mistakes))
        return cls(records=records, faults=faults, default_a=default_a, ttl=ttl, secure=secure)

    def has_name(self, name: str) -> bool:
        """Whether *name*, or a name below it, has any entry (RFC 8020)."""
        return any(known == name or known.endswith("." + name) for known, _ in self.records)

    def is_secure(self, name: str) -> bool:
        """Whether answers about *name* count as checked."""
        return any(name == top or name.endswith("." + top) for top in self.secure)

    def alias_of(self, name: str) -> str:
        """The name that *name* is an alias of; empty if it is none."""
        targets = self.records.get((name, dns.rdatatype.CNAME), ())
        return _key(targets[0]) if targets else ""


def load_zone(path: str | Path) -> Zone:
    """Read a zone from a `.toml` or `.json` file."""
    content = Path(path).read_bytes().decode()
    return Zone.from_mapping(
        json.loads(content) if str(path).endswith(".json") else tomllib.loads(content)
    )


def answer_query(query: dns.message.Message, zone: Zone) -> dns.message.Message | None:
    """Answer *query* from *zone*; None means that no answer is sent."""
    response = dns.message.make_response(query)
    response.flags |= dns.flags.AA | dns.flags.RA
    if len(query.question) != 1:
        response.set_rcode(dns.rcode.FORMERR)
        return response
    question = query.question[0]
    name = _key(question.name.to_text())
    fault = zone.faults.get(name)
    if fault is Fault.TIMEOUT:
        return None
    if fault is not None:
        response.set_rcode(dns.rcode.from_text(fault.value))
        return response
    asks_for_security = bool(query.flags & dns.flags.AD or query.ednsflags & dns.flags.DO)
    names = _follow(name, question.rdtype, zone)
    if zone.secure and asks_for_security and all(zone.is_secure(each) for each in names):
        response.flags |= dns.flags.AD
    name = names[-1]
    for each in names[:-1]:
        _add_answer(response, each, dns.rdatatype.CNAME, zone)
    if zone.records.get((name, question.rdtype), ()) and question.rdclass == _IN:
        _add_answer(response, name, question.rdtype, zone, owner=question.name)
        return response
    if not zone.has_name(name):
        response.set_rcode(dns.rcode.NXDOMAIN)
    response.authority.append(_start_of_authority(question.name, zone.ttl))
    return response


def _follow(name: str, rdtype: dns.rdatatype.RdataType, zone: Zone) -> list[str]:
    """*name* and the names that its aliases lead to."""
    names = [name]
    while rdtype != dns.rdatatype.CNAME and len(names) <= _MOST_ALIASES:
        target = zone.alias_of(names[-1])
        if not target:
            break
        names.append(target)
    return names


def _add_answer(
    response: dns.message.Message,
    name: str,
    rdtype: dns.rdatatype.RdataType,
    zone: Zone,
    *,
    owner: dns.name.Name | None = None,
) -> None:
    # The case of the question is kept, as resolvers expect.
    if owner is None or _key(owner.to_text()) != name:
        owner = dns.name.from_text(name)
    texts = zone.records[name, rdtype]
    response.answer.append(dns.rrset.from_text_list(owner, zone.ttl, _IN, rdtype, texts))


def _start_of_authority(name: dns.name.Name, ttl: int) -> dns.rrset.RRset:
    # RFC 2308: a resolver caches a negative answer for the lesser of the SOA's TTL and minimum.
    owner = dns.name.Name(name.labels[-2:]) if len(name.labels) > 1 else dns.name.root
    text = f"ns.invalid. hostmaster.invalid. 1 3600 600 86400 {ttl}"
    return dns.rrset.from_text(owner, ttl, _IN, dns.rdatatype.SOA, text)


def _key(name: str) -> str:
    return name.lower().rstrip(".")


def _text(kind: str, value: Any) -> str:
    """The presentation form of one record."""
    text = str(value)
    if kind == "txt" and not text.startswith('"'):
        # A string holds 255 bytes; a longer text is several.
        pieces = [text[start : start + 255] for start in range(0, max(1, len(text)), 255)]
        return " ".join(f'"{piece}"' for piece in pieces)
    return f"{text.rstrip('.')}." if kind == "cname" else text


def _tables(
    table: Mapping[str, Any], key: str, mistakes: list[str]
) -> Iterable[tuple[str, Sequence[Any]]]:
    content = table.get(key, {})
    if not isinstance(content, Mapping):
        mistakes.append(f"{key}: expected a table of names")
        return
    for name, entries in content.items():
        if isinstance(entries, list | tuple):
            yield name, entries
        else:
            mistakes.append(f'{key}."{name}": expected a list')


def _mx_records(
    content: Any, mistakes: list[str]
) -> Iterable[tuple[tuple[str, dns.rdatatype.RdataType], tuple[str, ...]]]:
    for name, entries in _tables({"mx": content}, "mx", mistakes):
        texts = []
        for entry in entries:
            try:
                preference, host = entry
                texts.append(f"{int(preference)} {str(host).rstrip('.')}.")
            except (TypeError, ValueError):
                mistakes.append(f'mx."{name}" {entry!r}: expected [preference, "host"]')
        yield (_key(name), dns.rdatatype.MX), tuple(texts)


def _add_default_addresses(
    records: dict[tuple[str, dns.rdatatype.RdataType], tuple[str, ...]], default_a: tuple[str, ...]
) -> None:
    if not default_a:
        return
    mx_texts = [texts for (_, rdtype), texts in records.items() if rdtype == dns.rdatatype.MX]
    hosts = {_key(text.split()[1]) for texts in mx_texts for text in texts} - {""}
    for host in hosts:
        if not any((host, rdtype) in records for rdtype in _LEADS_TO_ADDRESS):
            records[host, dns.rdatatype.A] = default_a


def _check_records(
    records: Mapping[tuple[str, dns.rdatatype.RdataType], tuple[str, ...]], mistakes: list[str]
) -> None:
    for (name, rdtype), texts in records.items():
        for text in texts:
            try:
                dns.rdata.from_text(_IN, rdtype, text)
            except Exception as error:  # dnspython raises many unrelated classes here
                kind = dns.rdatatype.to_text(rdtype).lower()
                mistakes.append(f'{kind}."{name}" "{text}": {error}')


def _faults(content: Any, mistakes: list[str]) -> dict[str, Fault]:
    faults: dict[str, Fault] = {}
    for name, text in content.items() if isinstance(content, Mapping) else ():
        try:
            faults[_key(name)] = Fault(text)
        except ValueError:
            allowed = ", ".join(fault.value for fault in Fault)
            mistakes.append(f'faults."{name}" {text!r}: expected one of {allowed}')
    return faults


def _unknown_keys(table: Mapping[str, Any]) -> list[str]:
    known = {"mx", *_TEXT_TYPES, "faults", "ttl", "default_a", "secure"}
    return [
        f"{key}: unknown key, expected one of {', '.join(sorted(known))}"
        for key, value in table.items()
        if key not in known and not isinstance(value, str)
    ]
