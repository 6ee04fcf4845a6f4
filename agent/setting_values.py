"""The kinds of values the configuration is written in: durations, sizes, addresses, shares."""

import re
from dataclasses import dataclass
from datetime import timedelta
from ipaddress import ip_address, ip_network

from agent.delivery.dsn import TellSender

_UNITS = {
    "ms": timedelta(milliseconds=1),
    "s": timedelta(seconds=1),
    "sec": timedelta(seconds=1),
    "second": timedelta(seconds=1),
    "m": timedelta(minutes=1),
    "min": timedelta(minutes=1),
    "minute": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "hr": timedelta(hours=1),
    "hour": timedelta(hours=1),
    "d": timedelta(days=1),
    "day": timedelta(days=1),
    "w": timedelta(weeks=1),
    "week": timedelta(weeks=1),
}
_DURATION_PART = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]+)\s*")
_LONGEST = timedelta(days=3650)

_TELL_SENDER = {
    "true": TellSender.ALWAYS,
    "false": TellSender.NEVER,
    "failure": TellSender.FAILURE,
    "expiry": TellSender.EXPIRY,
}

_SIZE_UNITS = {"": 1, "b": 1, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40}
_SIZE = re.compile(r"\s*(\d+)\s*([a-z]*)\s*")


@dataclass(frozen=True, slots=True)
class Address:
    """A host and a port; as text `host:port`, with an IPv6 host in brackets."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SpaceFloor:
    """How much of a disk must stay free: a share of it, or a number of bytes."""

    share: float = 0.0
    size: int = 0

    def is_met(self, *, free: int, total: int) -> bool:
        """Whether *free* of *total* bytes are enough."""
        return free >= self.size and free >= self.share * total


def parse_duration(value: object) -> timedelta:
    """
    Read a duration: seconds as a number, or a text such as "20m" or "1h 30m".

    >>> parse_duration("1h 30m")
    datetime.timedelta(seconds=5400)
    """
    remedy = 'write seconds, or a text such as "90s", "20m", "4h" or "7d"'
    if isinstance(value, timedelta):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        found = timedelta(seconds=value) if 0 <= value <= _LONGEST.total_seconds() else None
    else:
        found = _add_up(value) if isinstance(value, str) else None
    if found is None or found > _LONGEST:
        raise ValueError(f"{value!r} is no duration up to 10 years; {remedy}")
    return found


def _add_up(text: str) -> timedelta | None:
    total, place, text = timedelta(), 0, text.strip().lower()
    if text.isdecimal() and len(text) < 10:
        return timedelta(seconds=int(text))
    while place < len(text):
        part = _DURATION_PART.match(text, place)
        if part is None:
            return None
        unit = _UNITS.get(part[2]) or _UNITS.get(part[2].removesuffix("s"))
        if unit is None or len(part[1]) > 15:
            return None
        total += float(part[1]) * unit if float(part[1]) < 1e6 else _LONGEST * 2
        place = part.end()
    return total if text else None


def parse_size(value: object) -> int:
    """
    Read a number of bytes: an integer, or a text such as "20 MiB".

    >>> parse_size("20 MiB")
    20971520
    """
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    match = _SIZE.fullmatch(value.lower()) if isinstance(value, str) else None
    if match is None or match[2] not in _SIZE_UNITS or len(match[1]) > 15:
        raise ValueError(f'{value!r} is no size; write bytes, or a text such as "20 MiB"')
    return int(match[1]) * _SIZE_UNITS[match[2]]


def parse_space_floor(value: object) -> SpaceFloor:
    """Read how much must stay free: "10%", or a size."""
    if isinstance(value, SpaceFloor):
        return value
    if isinstance(value, str) and value.strip().endswith("%"):
        try:
            share = float(value.strip().removesuffix("%")) / 100
        except ValueError:
            share = -1.0
        if 0 <= share < 1:
            return SpaceFloor(share=share)
        raise ValueError(f'{value!r} is no share; write "0%" up to "99%"')
    return SpaceFloor(size=parse_size(value))


def parse_tell_sender(value: object) -> TellSender:
    """Read of which failures senders are told: true, false, "failure" or "expiry"."""
    if isinstance(value, TellSender):
        return value
    found = _TELL_SENDER.get(str(value).strip().lower()) if isinstance(value, str | bool) else None
    if found is None:
        raise ValueError(
            f'{value!r} is no choice; write true, false, "failure" for permanent failures only, '
            'or "expiry" for mail that grew too old only'
        )
    return found


def parse_address(value: object) -> Address:
    """Read `host:port`; a host of IPv6 stands in brackets."""
    if isinstance(value, Address):
        return value
    host, colon, port = value.rpartition(":") if isinstance(value, str) else ("", "", "")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    is_split = bool(colon and bare) and (":" not in bare or bare != host)
    if not is_split or not port.isascii() or not port.isdecimal() or int(port) > 65535:
        raise ValueError(
            f'{value!r} is no address; write "127.0.0.1:7525", or "[::1]:7525" for IPv6'
        )
    return Address(bare, int(port))


def check_ip(value: str) -> str:
    """Refuse what is no IP address."""
    try:
        return str(ip_address(value))
    except ValueError:
        raise ValueError(
            f'{value!r} is no IP address; write one of this host, such as "192.0.2.1"'
        ) from None


def check_network(value: str) -> str:
    """Refuse what is neither an address nor a network."""
    try:
        return str(ip_network(value))
    except ValueError as error:
        raise ValueError(
            f'{value!r} is no network ({error}); write "192.0.2.0/24" or "::1"'
        ) from None
