"""A policy server in the simulated world: the real parts on a simulated listener."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

from penstock.v1.automation_service_pb2_grpc import add_AutomationServiceServicer_to_server
from penstock.v1.feedback_service_pb2_grpc import add_FeedbackServiceServicer_to_server
from policy_server.dns import MxAnswer
from policy_server.errors import DnsUnavailable, DomainNotFound
from policy_server.metrics import ServerMetrics
from policy_server.policy import Policy
from policy_server.rules.site import MxHost
from policy_server.services.agent_directory import AgentDirectory
from policy_server.services.automation_service import AutomationService
from policy_server.services.canary import CanaryShare
from policy_server.services.feedback_service import FeedbackService
from policy_server.services.policy_service import PolicyService, add_policy_service
from policy_server.services.rule_trials import RuleTrials
from policy_server.services.supervised_server import SupervisedServer
from policy_server.services.watch import WatchHub
from policy_server.store.actions import ActionStore
from policy_server.store.agents import AgentStore
from policy_server.store.database import Database
from policy_server.store.datastore import read_datastore_id
from policy_server.store.operator_actions import OperatorActionStore
from policy_server.store.reports import ReportStore
from policy_server.supervisor import keep_running
from tests.simulation.rules import DOMAINS
from tests.simulation.virtual_loop import Process, VirtualLoop
from tests.simulation.wire import Listener, Network


class SimulatedDns:
    """The name servers, as the resolver of a policy server sees them."""

    def __init__(self, random: Random) -> None:
        self._random = random
        #: Whether nobody answers.
        self.is_down = False

    async def mx(self, domain: str) -> MxAnswer:
        """Find the MX hosts of a domain."""
        await asyncio.sleep(0.05 * self._random.random())
        if self.is_down:
            await asyncio.sleep(2)
            raise DnsUnavailable(f'MX of "{domain}": no answer in time')
        if domain not in DOMAINS:
            raise DomainNotFound(f'the domain "{domain}" does not exist')
        hosts = tuple(MxHost(one.host, one.preference) for one in DOMAINS[domain])
        return MxAnswer(hosts=hosts, ttl=timedelta(minutes=5))

    async def close(self) -> None:
        """Do nothing."""


class SimulatedHints:
    """Hints of new revisions, of which many are lost."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self.is_listening = True

    async def wait(self, seconds: float) -> None:
        """Return at a hint, or after *seconds*."""
        await asyncio.sleep(seconds * self._random.choice((0.1, 1, 1, 1)))

    async def run(self) -> None:
        """Listen for ever."""
        await asyncio.Event().wait()


class SimulatedServer:
    """One server process; `start` it, then `kill` it."""

    def __init__(
        self,
        name: str,
        *,
        loop: VirtualLoop,
        network: Network,
        path: Path,
        clock: Callable[[], datetime],
        dns: SimulatedDns,
        canary_share: float,
        seed: str,
    ) -> None:
        self.name = name
        self.process: Process = loop.new_process(name)
        self.is_ready = False
        self.database = Database(f"sqlite:///{path}")
        metrics = ServerMetrics()
        random = Random(f"{seed} {name}")
        actions = ActionStore(self.database)
        self.policy: Policy = self.process.run(
            lambda: Policy(
                self.database,
                actions=actions,
                resolver=dns,
                metrics=metrics,
                clock=clock,
                listener=SimulatedHints(random),
            )
        )
        self.listener = Listener(network, self.process, name)
        services = SupervisedServer(self.listener, metrics)
        self._directory = AgentDirectory(
            AgentStore(self.database),
            server=name,
            metrics=metrics,
            revision=lambda: self.policy.revision if self.policy.is_loaded else 0,
            clock=clock,
        )
        self._hub = WatchHub(
            self.policy,
            actions,
            directory=self._directory,
            metrics=metrics,
            clock=clock,
            canaries=CanaryShare(share=canary_share),
            random=random.random,
        )
        add_policy_service(services, PolicyService(self.policy, self._hub), self._hub)
        reports = ReportStore(self.database)
        self._feedback = FeedbackService(
            self.policy, reports, metrics=metrics, clock=clock, random=random
        )
        add_FeedbackServiceServicer_to_server(self._feedback, services)
        add_AutomationServiceServicer_to_server(
            AutomationService(
                self.policy,
                actions,
                OperatorActionStore(self.database),
                trials=RuleTrials(self.policy, self.database),
                clock=clock,
            ),
            services,
        )

    def start(self) -> None:
        """Listen, then become ready, as `policy_server.server` does."""
        self.listener.open()
        self.process.start(self._become_ready())

    async def _become_ready(self) -> None:
        self._hub.use_datastore(await read_datastore_id(self.database))
        await self.policy.start()
        self.is_ready = True
        await keep_running(self._directory.run)

    def stop(self) -> None:
        """Take no more calls and ask clients to come back, as at SIGTERM."""
        self.process.run(self._hub.drain)
        self.process.run(self._feedback.drain)
        self.listener.close()

    def kill(self) -> None:
        """End it this instant; the database file stays."""
        self.process.kill()
        self.listener.die()
        self.database.close()


def utc(seconds: float) -> datetime:
    """Convert seconds since the epoch."""
    return datetime.fromtimestamp(seconds, UTC)
