"""
Watch: what the server, the agents and the sink say while the demo runs, and what was seen of it.
"""

import asyncio
import contextlib
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import grpc

from examples.demo.layout import Layout
from examples.demo.load import SHARES
from penstock.v1.automation_service_pb2 import (
    ACTION_KIND_SUSPEND,
    ACTION_STATE_CANCELLED,
    ACTION_STATE_EXPIRED,
    ACTION_STATE_IN_FORCE,
    AutomationAction,
    ListActionsRequest,
)
from penstock.v1.automation_service_pb2_grpc import AutomationServiceStub
from penstock.v1.egress_path_pb2 import EgressPathConfig
from penstock.v1.policy_service_pb2 import (
    BatchGetEgressPathConfigsRequest,
    GetEgressPathConfigRequest,
)
from penstock.v1.policy_service_pb2_grpc import PolicyServiceStub

_RATE_SECONDS = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderView:
    """One provider at this moment."""

    name: str
    queued: int = 0
    delivered: int = 0
    #: Replies of 5xx; what is sent along with a recipient that is refused meets one as well.
    refused: int = 0
    #: Offered to the provider, a second, of late; and what the rules allow both agents together.
    rate: float = 0.0
    rate_limit: float | None = None
    connections: int = 0
    connection_limit: int | None = None
    is_pushing_back: bool = False
    actions: tuple[str, ...] = ()


@dataclass(slots=True)
class Seen:
    """What happened in the whole run."""

    #: Agents (by source) whose own status showed a path of theirs suspended, and lifted later.
    suspended: set[str] = field(default_factory=set)
    lifted: set[str] = field(default_factory=set)
    #: Suspensions by source as the server listed them.
    actions: dict[int, AutomationAction] = field(default_factory=dict)
    pushed_back: bool = False


class Watch:
    """Asks everybody how things are."""

    def __init__(
        self, layout: Layout, http: aiohttp.ClientSession, channel: grpc.aio.Channel
    ) -> None:
        """Use *http* for status pages and *channel* for the policy server."""
        self.seen = Seen()
        self.views: tuple[ProviderView, ...] = tuple(ProviderView(name=name) for name in SHARES)
        #: Status pages of the agents, by source.
        self._status: dict[str, dict[str, Any]] = {}
        self._counts: dict[str, Any] = {}
        self._layout = layout
        self._http = http
        self._policy = PolicyServiceStub(channel)
        self._automation = AutomationServiceStub(channel)
        self._offered: dict[str, deque[tuple[float, int]]] = {
            name: deque(maxlen=64) for name in SHARES
        }

    @property
    def queued(self) -> int:
        """Messages that the agents hold, waiting for a retry or for their turn."""
        return sum(sum(status["queues"].values()) for status in self._status.values())

    @property
    def settled(self) -> int:
        """Messages that the providers have accepted or refused for good."""
        providers = self._counts.get("providers", {}).values()
        return sum(counts["identities"] + counts["total"]["refused"] for counts in providers)

    @property
    def suspended_now(self) -> bool:
        """Whether an agent shows a path that is held."""
        return self.seen.suspended != self.seen.lifted

    async def look(self) -> None:
        """Ask once; who does not answer in time keeps the values of before."""
        with contextlib.suppress(aiohttp.ClientError, grpc.aio.AioRpcError, OSError, TimeoutError):
            async with asyncio.timeout(3):
                counts, configs, actions, _ = await asyncio.gather(
                    self._get_counts(), self._configs(), self._actions(), self._get_status()
                )
                self._counts = counts
                self._note(actions)
                self.views = tuple(
                    self._view(name, counts["providers"][name], configs[name], actions)
                    for name in SHARES
                )

    async def _get_counts(self) -> dict[str, Any]:
        async with self._http.get(f"http://{self._layout.sink_http}/counts") as response:
            found: dict[str, Any] = await response.json()
            return found

    async def _get_status(self) -> None:
        for agent in self._layout.agents:
            async with self._http.get(f"http://127.0.0.1:{agent.http}/status") as response:
                self._status[agent.source] = await response.json()

    async def _actions(self) -> list[AutomationAction]:
        states = (ACTION_STATE_IN_FORCE, ACTION_STATE_EXPIRED, ACTION_STATE_CANCELLED)
        answer = await self._automation.ListActions(
            ListActionsRequest(states=states, page_size=200), timeout=2
        )
        return list(answer.actions)

    async def _configs(self) -> dict[str, list[EgressPathConfig]]:
        questions = [
            (name, GetEgressPathConfigRequest(routing_domain=domain, egress_source=agent.source))
            for name, (_, domains) in SHARES.items()
            for domain in domains
            for agent in self._layout.agents
        ]
        answer = await self._policy.BatchGetEgressPathConfigs(
            BatchGetEgressPathConfigsRequest(requests=[question for _, question in questions]),
            timeout=2,
        )
        configs: dict[str, dict[str, EgressPathConfig]] = {name: {} for name in SHARES}
        for (name, _), result in zip(questions, answer.results, strict=True):
            if result.HasField("response"):
                configs[name][result.response.path_name] = result.response.config
        return {name: list(paths.values()) for name, paths in configs.items()}

    def _note(self, actions: list[AutomationAction]) -> None:
        seen = self.seen
        seen.actions |= {action.id: action for action in actions}
        for source, status in self._status.items():
            if any(path["suspended_until"] for path in status["paths"]):
                seen.suspended.add(source)
                seen.lifted.discard(source)
            elif source in seen.suspended:
                seen.lifted.add(source)

    def _view(
        self,
        name: str,
        counts: dict[str, Any],
        configs: list[EgressPathConfig],
        actions: list[AutomationAction],
    ) -> ProviderView:
        pages = self._status.values()
        paths = [path for page in pages for path in page["paths"] if path["provider"] == name]
        total = counts["total"]
        self.seen.pushed_back |= counts["pushing_back"]
        return ProviderView(
            name=name,
            queued=sum(path["queued"] for path in paths),
            delivered=counts["identities"],
            refused=total["refused"],
            rate=self._rate(name, total["messages_offered"]),
            rate_limit=rate_limit(name, configs),
            connections=total["connections"]["open"],
            connection_limit=connection_limit(name, configs),
            is_pushing_back=counts["pushing_back"],
            actions=_describe(name, actions),
        )

    def _rate(self, name: str, offered: int) -> float:
        now = time.monotonic()
        history = self._offered[name]
        history.append((now, offered))
        while now - history[0][0] > _RATE_SECONDS and len(history) > 2:
            history.popleft()
        then, before = history[0]
        return (offered - before) / (now - then) if now > then else 0.0


def rate_limit(provider: str, configs: list[EgressPathConfig]) -> float | None:
    """Messages a second that all paths of *provider* together may send, by the configurations."""
    by_scope: dict[str, float] = {}
    by_paths: dict[str, float] = {}
    for config in configs:
        for name, rate in config.additional_message_rate_throttles.items():
            if name.startswith(f"shaping-provider-{provider}-"):
                by_scope[name] = _per_second(rate)
                own = _per_second(config.max_message_rate)
                unlimited = not config.HasField("max_message_rate")
                by_paths[name] = by_paths.get(name, 0.0) + (by_scope[name] if unlimited else own)
    if not by_scope:
        return None
    return sum(min(limit, by_paths[name]) for name, limit in by_scope.items())


def connection_limit(provider: str, configs: list[EgressPathConfig]) -> int | None:
    """Connections that all paths of *provider* together may have, by the configurations."""
    by_scope: dict[str, int] = {}
    by_paths: dict[str, int] = {}
    for config in configs:
        for name, limit in config.additional_connection_limits.items():
            if name.startswith(f"shaping-provider-{provider}-"):
                by_scope[name] = limit.value
                by_paths[name] = by_paths.get(name, 0) + config.connection_limit.value
    if not by_scope:
        return None
    return sum(min(limit, by_paths[name]) for name, limit in by_scope.items())


def _per_second(rate: Any) -> float:
    seconds = rate.period.seconds + rate.period.nanos / 1e9
    return float(rate.count) / seconds if seconds else 0.0


def _describe(provider: str, actions: list[AutomationAction]) -> tuple[str, ...]:
    """Say which actions are in force for *provider*, alike ones of several paths together."""
    now = time.time()
    ends: dict[str, list[float]] = {}
    for action in actions:
        left = action.expire_time.seconds + action.expire_time.nanos / 1e9 - now
        if action.state != ACTION_STATE_IN_FORCE or provider not in action.rule.block or left <= 0:
            continue
        is_suspension = action.kind == ACTION_KIND_SUSPEND
        text = "Suspend" if is_suspension else f"{action.option} = {action.new_value}"
        ends.setdefault(text, []).append(left)
    return tuple(f"{text} on {len(left)} paths, {max(left):.0f} s" for text, left in ends.items())
