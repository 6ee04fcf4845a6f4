"""
QueueName: the name of a scheduled queue, `campaign:tenant@domain!routing_domain`.

Nothing escapes in a name, so what would be read back as something else is refused when a name is
made. Tenants and campaigns are kept as they came; domains are to be lower-case A-labels already.
"""

from functools import lru_cache

import msgspec

_LONGEST_LABEL = 128
#: Names that need not be read again: each is asked for many times for a message.
_REMEMBERED = 20_000


class QueueName(msgspec.Struct, frozen=True, kw_only=True):
    """The parts of a name; empty parts are left out of the text."""

    domain: str
    tenant: str = ""
    campaign: str = ""
    #: Where the mail goes, if not to the recipients' own domain.
    routing_domain: str = ""

    def __post_init__(self) -> None:
        for part in (self.tenant, self.campaign):
            if mistake := label_mistake(part):
                raise ValueError(f"{part!r}: {mistake}")
        for part in (self.domain, self.routing_domain):
            if "@" in part or "!" in part:
                raise ValueError(f"{part!r}: a domain must not contain '@' or '!'")
        if not self.domain:
            raise ValueError("a queue name needs a domain")

    @property
    def next_domain(self) -> str:
        """The domain whose MX hosts take the mail."""
        return self.routing_domain or self.domain

    def __str__(self) -> str:
        if self.campaign:
            owner = f"{self.campaign}:{self.tenant}@"
        else:
            owner = f"{self.tenant}@" if self.tenant else ""
        return f"{owner}{self.domain}" + (f"!{self.routing_domain}" if self.routing_domain else "")


def label_mistake(text: str) -> str:
    """What is wrong with a tenant or campaign; empty: nothing."""
    if "@" in text or ":" in text:
        return "must not contain '@' or ':'"
    if text != text.strip() or not text.isprintable():
        return "must be printable, without blanks at its ends"
    if len(text) > _LONGEST_LABEL:
        return f"must have at most {_LONGEST_LABEL} characters"
    return ""


@lru_cache(maxsize=_REMEMBERED)
def parse_queue_name(text: str) -> QueueName:
    """
    Read a name.

    >>> parse_queue_name("news:acme@example.com!relay.example.net").tenant
    'acme'
    """
    owner, at, place = text.rpartition("@")
    campaign, colon, tenant = owner.partition(":")
    if not colon:
        campaign, tenant = "", owner
    if at and not owner:
        raise ValueError(f"{text!r}: nothing stands before the '@'")
    domain, _, routing_domain = place.partition("!")
    return QueueName(domain=domain, tenant=tenant, campaign=campaign, routing_domain=routing_domain)
