"""
Hosts: on which each worker has been heard, so that people are told when it comes from another one.
"""

import logging
from collections import OrderedDict

from policy_server.conversions.holders import Holder

logger = logging.getLogger(__name__)

#: Workers that are remembered, and hosts of each.
_MOST_WORKERS = 10_000
_MOST_HOSTS = 16


class KnownHosts:
    """The hosts of each worker that has leases; those heard longest ago are forgotten first."""

    def __init__(self) -> None:
        self._hosts: OrderedDict[Holder, OrderedDict[str, None]] = OrderedDict()

    def note(self, holder: Holder) -> None:
        """A worker begins to report; say so if it has leases on another host as well."""
        worker = holder._replace(host="")
        hosts = self._hosts.setdefault(worker, OrderedDict())
        if hosts and holder.host not in hosts:
            logger.warning(
                "a worker begins on another host: what it may still use on an earlier one is set "
                "aside until it is over; if that one is gone for certain, end its leases with "
                "penstock-server limits --release; if both run, give each agent a name of its own",
                extra={"worker": holder.name, "earlier": self._earlier(worker)},
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

    def _earlier(self, worker: Holder) -> list[str]:
        return [worker._replace(host=host).name for host in self._hosts[worker]]
