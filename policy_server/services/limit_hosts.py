"""
Hosts: on which each worker has been heard, so that people are told when it comes from another one.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable

from policy_server.conversions.holders import Holder

logger = logging.getLogger(__name__)

#: Workers that are remembered, and hosts of each.
_MOST_WORKERS = 10_000
_MOST_HOSTS = 16


class KnownHosts:
    """The hosts of each worker that was heard here; of too many those heard first are forgotten."""

    def __init__(self, has_seen: Callable[[str], bool]) -> None:
        """*has_seen* tells of a name in the book whether it may still have leases."""
        self._has_seen = has_seen
        self._hosts: OrderedDict[Holder, OrderedDict[str, None]] = OrderedDict()

    def note(self, holder: Holder) -> None:
        """A worker begins to report; say so if it may have leases on another host as well."""
        worker = holder._replace(host="")
        hosts = self._hosts.setdefault(worker, OrderedDict())
        if holder.host not in hosts:
            names = (worker._replace(host=host).name for host in hosts)
            if earlier := [name for name in names if self._has_seen(name)]:
                logger.warning(
                    "a worker begins on another host: what it may still use on an earlier one is "
                    "set aside until it is over; if that is gone for certain, end its leases with "
                    "penstock-server limits --release; if it runs, give it a name of its own",
                    extra={"worker": holder.name, "earlier": earlier},
                )
        hosts[holder.host] = None
        hosts.move_to_end(holder.host)
        self._hosts.move_to_end(worker)
        if len(hosts) > _MOST_HOSTS:
            hosts.popitem(last=False)
        if len(self._hosts) > _MOST_WORKERS:
            self._hosts.popitem(last=False)

    def forget(self, holder: Holder) -> None:
        """A worker has given back what it had on a host."""
        worker = holder._replace(host="")
        hosts = self._hosts.get(worker, OrderedDict())
        hosts.pop(holder.host, None)
        if not hosts:
            self._hosts.pop(worker, None)
