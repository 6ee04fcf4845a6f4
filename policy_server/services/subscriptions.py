"""
What one client subscribes to, and which question each name stands for; the DNS may be slow.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence

from penstock.v1 import policy_service_pb2 as pb
from policy_server.conversions.paths import read_hosts
from policy_server.errors import InvalidRequest, PolicyServerError
from policy_server.policy import Policy
from policy_server.services.watch_backlog import WatchBacklog
from policy_server.services.watched_paths import WatchedPath, WatchedPaths

logger = logging.getLogger(__name__)

#: Most names one stream may subscribe to.
MAX_SUBSCRIPTIONS = 100_000
#: Longest name of a subscription, in bytes.
MAX_NAME_BYTES = 512
_QUESTIONS_AT_ONCE = 32
_LOGGED_LENGTH = 200


class Subscriptions:
    """Takes in names and makes out their questions; let `find_sites` run beside."""

    def __init__(self, policy: Policy, paths: WatchedPaths, backlog: WatchBacklog) -> None:
        self._policy, self._paths, self._backlog = policy, paths, backlog
        #: Names whose question is not made out yet.
        self._open: dict[str, None] = {}
        self._open_changed = asyncio.Event()
        self._all_known = asyncio.Event()
        self._all_known.set()

    def add(
        self, subscriptions: Sequence[pb.PathSubscription], known: Mapping[str, str]
    ) -> frozenset[str]:
        """
        Subscribe to paths, of which the client knows answers by their etags; return their names.

        Errors: `InvalidRequest`.
        """
        for subscription in subscriptions:
            _check_subscription(subscription)
            self._paths.put(
                WatchedPath(
                    name=subscription.name,
                    routing_domain=subscription.routing_domain,
                    egress_source=subscription.egress_source,
                    site_name=subscription.site_name,
                    mx_hosts=read_hosts(subscription.mx_hosts),
                    etag=known.get(subscription.name, ""),
                )
            )
            self._backlog.take_back(subscription.name)
            self.ask(subscription.name)
        if len(self._paths) > MAX_SUBSCRIPTIONS:
            raise InvalidRequest(
                f"a stream may subscribe to at most {MAX_SUBSCRIPTIONS} paths", field="subscribe"
            )
        return frozenset(each.name for each in subscriptions)

    def remove(self, names: Sequence[str]) -> None:
        """Subscribe to these no more. Errors: `InvalidRequest`."""
        for name in names:
            _check_name(name)
            self._paths.remove(name)
            self._backlog.note_gone(name)
        if self._backlog.gone > MAX_SUBSCRIPTIONS:
            raise InvalidRequest(
                f"at most {MAX_SUBSCRIPTIONS} names may wait for their removal to be confirmed; "
                "acknowledge responses first",
                field="remove",
            )

    def ask(self, name: str) -> None:
        """Have the question of a name made out, perhaps anew."""
        self._open[name] = None
        self._all_known.clear()
        self._open_changed.set()

    @property
    def open(self) -> int:
        """How many questions are not made out yet."""
        return len(self._open)

    @property
    def are_known(self) -> bool:
        """Whether all questions are made out, as far as they can be."""
        return self._all_known.is_set()

    async def wait(self) -> None:
        """Wait until all questions are made out."""
        await self._all_known.wait()

    async def find_sites(self, agent: str, ring: Callable[[], None]) -> None:
        """Make out the questions of *agent*, for ever; *ring* after some."""
        while True:
            while self._open:
                names = list(self._open)[:_QUESTIONS_AT_ONCE]
                await asyncio.gather(*(self._find_site(name, agent) for name in names))
                ring()
            self._all_known.set()
            self._open_changed.clear()
            await self._open_changed.wait()

    async def _find_site(self, name: str, agent: str) -> None:
        self._open.pop(name, None)
        path = self._paths.get(name)
        if path is None:
            return
        try:
            question = await self._policy.question(
                path.routing_domain, path.egress_source, path.site_name, path.mx_hosts
            )
        except PolicyServerError as error:
            # Asked again when rules or sites change; a question that had an answer keeps it.
            if path.question is None:
                facts = {"agent": agent, "why": str(error)[:_LOGGED_LENGTH]}
                logger.info("subscribed path has no answer", extra=facts)
                self._backlog.note_gone(name)
            return
        if self._paths.get(name) is path:
            self._paths.settle(path, question)
            self._backlog.note_paths([name])


def _check_subscription(subscription: pb.PathSubscription) -> None:
    _check_name(subscription.name)
    for field in ("routing_domain", "egress_source"):
        if not getattr(subscription, field):
            raise InvalidRequest(f"{field} is required", field=field)


def _check_name(name: str) -> None:
    if not 0 < len(name.encode()) <= MAX_NAME_BYTES:
        raise InvalidRequest(
            f"the name of a subscription has 1 to {MAX_NAME_BYTES} bytes", field="name"
        )
