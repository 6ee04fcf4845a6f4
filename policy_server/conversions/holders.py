"""
Holders: who has leases, and how the book of limits names them.

It is pure. One process of an agent on one host is a holder: what starts elsewhere under the name of
an agent that may still be running is another one, and has nothing of what that one has.
"""

from typing import NamedTuple, Protocol, Self


class _SaysWho(Protocol):
    worker: str
    host: str


class Holder(NamedTuple):
    """A worker of an agent, and the host that it says it runs on; empty: the only one."""

    agent: str
    worker: str = ""
    host: str = ""

    @classmethod
    def of(cls, agent: str, message: _SaysWho) -> Self:
        """Tell who sent *message*, a call of *agent*; neither worker nor host has '/' or '@'."""
        return cls(agent, message.worker, message.host)

    @classmethod
    def parse(cls, name: str) -> Self:
        """
        Tell who has a name in the book.

        >>> Holder.parse("mta-1"), Holder.parse("mta-1/2@5e2f")
        (Holder(agent='mta-1', worker='', host=''), Holder(agent='mta-1', worker='2', host='5e2f'))
        >>> Holder.parse("a//b@@c")
        Holder(agent='a/b@c', worker='', host='')
        """
        rest, host = _split(name, "@")
        agent, worker = _split(rest, "/")
        return cls(agent.replace("//", "/").replace("@@", "@"), worker, host)

    @property
    def name(self) -> str:
        """
        The name in the book, which no other holder has.

        >>> Holder("mta-1").name, Holder("mta-1", "2", "5e2f").name, Holder("a/b@c").name
        ('mta-1', 'mta-1/2@5e2f', 'a//b@@c')
        """
        agent = self.agent.replace("/", "//").replace("@", "@@")
        worker = f"/{self.worker}" if self.worker else ""
        host = f"@{self.host}" if self.host else ""
        return agent + worker + host


def _split(name: str, mark: str) -> tuple[str, str]:
    """Split at the last *mark* that stands alone; those of an agent's name are doubled."""
    head, found, tail = name.rpartition(mark)
    # What follows has none, so that those of the agent's name before it are even in number.
    if not found or (len(head) - len(head.rstrip(mark))) % 2:
        return name, ""
    return head, tail
