"""A delivery agent in the simulated world: its real policy and outcome parts, and its traffic."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random

from agent.delivery.record import Record, RecordType, Response
from agent.errors import PolicyUnavailable
from agent.outcomes.uploader import OutcomeUploader
from agent.policy.answer import Bounce, PathPolicy, Suspension
from agent.policy.book import PolicyBook
from agent.policy.client import PolicyClient
from agent.policy.disk import PolicyDisk
from agent.policy.watch import PolicyWatch
from agent.queue.names import QueueName
from penstock.v1.policy_service_pb2 import AgentInfo
from tests.simulation.outbox import Outbox
from tests.simulation.rules import CAMPAIGNS, DOMAINS, REPLIES, SOURCES, TENANTS
from tests.simulation.virtual_loop import Process, VirtualLoop
from tests.simulation.wire import Channel, Network


class SimulatedAgent:
    """One agent process; what is in its directory outlives it."""

    def __init__(
        self,
        name: str,
        *,
        loop: VirtualLoop,
        network: Network,
        directory: Path,
        clock: Callable[[], float],
        addresses: tuple[str, ...],
        is_balanced: bool,
        random: Random,
        on_event: Callable[[Record], None],
        on_forgotten: Callable[[str], None],
        on_change: Callable[["SimulatedAgent"], None],
        on_obeyed: Callable[["SimulatedAgent", Suspension | Bounce], None],
    ) -> None:
        self.name = name
        self.process: Process = loop.new_process(name)
        self.clock = clock
        self.is_ready = False
        #: Whether it has mail to deliver.
        self.is_busy = True
        self._loop = loop
        self._random = random
        self._on_event, self._on_change, self._on_obeyed = on_event, on_change, on_obeyed
        self.channel = Channel(network, self.process, addresses, is_balanced=is_balanced)
        directory.mkdir(parents=True, exist_ok=True)
        self.disk = PolicyDisk(directory / "policy.db")
        self.book = PolicyBook(self.disk, clock=clock, random=random, steady=loop.time)
        self.outbox = Outbox(directory / "spool.db", on_forgotten=on_forgotten)
        self.client = PolicyClient(self.channel, self.book, agent_name=name, random=random)
        info = AgentInfo(name=name, version="1", egress_sources=SOURCES)
        self.watch = PolicyWatch(
            self.channel, self.book, self.client, agent_info=info, clock=clock, random=random
        )
        self.uploader = OutcomeUploader(
            self.outbox, self.channel, agent_name=name, clock=clock, random=random
        )

    def start(self) -> None:
        """Come up, as `agent.worker` does, and deliver mail."""
        self.process.start(self._run())

    def kill(self) -> None:
        """End it this instant."""
        self.process.kill()
        self.channel.break_off()
        self.outbox.close()

    async def _run(self) -> None:
        await self.book.open()
        self.book.subscribe(lambda: self._on_change(self))
        self.watch.start()
        self.uploader.start()
        self.is_ready = True
        while True:
            await asyncio.sleep(2 * self._random.random())
            if self.is_busy:
                await self._deliver()

    async def _deliver(self) -> None:
        """Try one message, as a queue does."""
        random = self._random
        domain, source = random.choice(list(DOMAINS)), random.choice(SOURCES)
        policy = self.client.lookup(domain, source)
        if policy is None:
            with suppress(PolicyUnavailable):
                policy = await self.client.fetch(domain, source, DOMAINS[domain])
        if policy is None:
            return
        tenant, campaign = random.choice(TENANTS), random.choice(CAMPAIGNS)
        queue = QueueName(domain=domain, tenant=tenant, campaign=campaign)
        obeyed = [
            self.client.bounce_of(queue),
            self.client.suspension_of(policy, tenant, campaign),
        ]
        for action in obeyed:
            if action is not None:
                self._on_obeyed(self, action)
        # Mail that was on its way when an action came is replied to all the same.
        if obeyed == [None, None] or random.random() < 0.5:
            for _ in range(random.choice((1, 1, 1, 3))):
                await self._report(policy, tenant, campaign)

    async def _report(self, policy: PathPolicy, tenant: str, campaign: str) -> None:
        random = self._random
        late = random.random() * 15 if random.random() < 0.1 else 0.0
        reply = random.choice(REPLIES)
        record = Record(
            type=RecordType.DELIVERY if reply == REPLIES[-1] else RecordType.TRANSIENT_FAILURE,
            event_id=f"{self.name}-{random.getrandbits(64):x}",
            timestamp=self.clock() - late,
            id="m",
            sender="a@example.com",
            recipients=(f"joe@{policy.routing_domain}",),
            response=Response(code=421, enhanced_code=(4, 7, 0), content=reply),
            created=self.clock(),
            site=policy.path_name,
            site_name=policy.site_name,
            routing_domain=policy.routing_domain,
            recipient_domain=policy.routing_domain,
            egress_source=policy.egress_source,
            tenant=tenant,
            campaign=campaign,
        )
        self._on_event(record)
        await self.outbox.add(record)
        self.uploader.on_records([record])
