"""
Mail addresses of the envelope (RFC 5321 4.1.2, RFC 6531): read, checked and brought to one form.

Domains become lower-case A-labels, so that one domain has one queue and a plain recipient at an
internationalised domain needs no SMTPUTF8 on its way out. Local parts stay as they are.
"""

import re
from functools import lru_cache

import idna

from agent.errors import BadRecipient, BadSender

_LONGEST_PATH = 254
_LONGEST_LOCAL_PART = 64
#: Addresses and domains that need not be read again: those of a message are met more than once,
#: senders and domains in many.
_REMEMBERED = 2048
_LABEL = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
# Non-ASCII letters are allowed with SMTPUTF8 alone; that is tested apart.
_ATEXT = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\-\u0080-\U0010FFFF]"
_DOT_STRING = re.compile(rf"{_ATEXT}+(?:\.{_ATEXT}+)*")
_QUOTED_STRING = re.compile(r'"(?:[^"\\\x00-\x1f\x7f]|\\[\x20-\x7e])*"')
_SOURCE_ROUTE = re.compile(r"@[^:@]+(?:,@[^:@]+)*:")


def parse_sender(text: str, *, smtp_utf8: bool = False) -> str:
    """Check an envelope sender; empty is the null sender. Errors: `BadSender`."""
    if not text:
        return ""
    try:
        return _read_path(text, smtp_utf8=smtp_utf8)
    except ValueError as error:
        raise BadSender(f"sender address: {error}", field="sender") from error


def parse_recipient(text: str, *, smtp_utf8: bool = False, number: int | None = None) -> str:
    """
    Check an envelope recipient; *number* is its place among those of a request. Errors:
    `BadRecipient`.
    """
    try:
        return _read_path(text, smtp_utf8=smtp_utf8)
    except ValueError as error:
        field = "" if number is None else f"recipients[{number}]"
        raise BadRecipient(f"recipient address: {error}", field=field) from error


def domain_of(address: str) -> str:
    """The domain of an address that was checked."""
    return address.rpartition("@")[2]


@lru_cache(maxsize=_REMEMBERED)
def normalise_domain(text: str) -> str:
    """Bring a domain to lower-case A-labels. Errors: ValueError."""
    domain = text
    if not text.isascii():
        try:
            domain = idna.encode(text, uts46=True).decode()
        except idna.IDNAError as error:
            raise ValueError(f"no valid domain ({error})") from error
    labels = domain.split(".")
    if len(domain) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError("no valid domain")
    if labels[-1].isdecimal():
        raise ValueError("no valid domain; addresses of hosts are not taken")
    return domain.lower()


@lru_cache(maxsize=_REMEMBERED)
def _read_path(text: str, *, smtp_utf8: bool) -> str:
    return "@".join(_split(text, smtp_utf8=smtp_utf8))


def _split(text: str, *, smtp_utf8: bool) -> tuple[str, str]:
    # RFC 5321 4.1.1.3: source routes are to be accepted and ignored.
    if route := _SOURCE_ROUTE.match(text):
        text = text[route.end() :]
    local, at, domain = text.rpartition("@")
    if not at or not local:
        raise ValueError("needs a local part, '@' and a domain")
    if not (_DOT_STRING.fullmatch(local) or _QUOTED_STRING.fullmatch(local)):
        raise ValueError("no valid local part")
    if not local.isascii():
        _check_utf8(local, smtp_utf8=smtp_utf8)
    domain = normalise_domain(domain)
    if len(local.encode()) > _LONGEST_LOCAL_PART or len(local) + len(domain) >= _LONGEST_PATH:
        raise ValueError("longer than RFC 5321 4.5.3.1 allows")
    return local, domain


def _check_utf8(local: str, *, smtp_utf8: bool) -> None:
    if not smtp_utf8:
        raise ValueError("not in ASCII; needs SMTPUTF8")
    try:
        local.encode()
    except UnicodeEncodeError as error:
        raise ValueError("no valid UTF-8") from error
