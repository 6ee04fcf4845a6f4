"""
The pure book and the scripts in a real Valkey, side by side: whatever they are asked, they must
decide the same. The scripts run on virtual time, which a clock of the tests' own gives them.
"""

from collections.abc import Mapping

from policy_server.limits.book import LeaseBook, Signer
from policy_server.limits.messages import Decision, Holding, NumberedPromise, Report
from policy_server.limits.spec import LeaseTiming, LimitSpec
from policy_server.limits.state import Limit, Session
from policy_server.limits.views import view_limit
from policy_server.shared_book.calls import (
    read_synced,
    report_arguments,
    restore_arguments,
    spec_arguments,
    sync_arguments,
    terms_text,
)
from policy_server.shared_book.source import read_source

#: Takes the place of clock.lua: the time is what the test has written.
VIRTUAL_CLOCK = """
local function read_wall_clock()
  return tonumber(redis.call('GET', KEYS[1] .. ':virtual_time'))
end

local function read_clock(last_wall, last_time)
  local time = read_wall_clock()
  return time, time
end
"""
SHARD = "penstock:test:{s00}"
_SERVER = "server"


class Scripts:
    """One shard of the book in a Valkey, at one epoch, on virtual time."""

    def __init__(self, client, epoch: int) -> None:
        self._client = client
        self.epoch = epoch
        self._digest = client.script_load(read_source(clock=VIRTUAL_CLOCK))

    def call(self, operation: str, now: int, *arguments):
        """Make a call at a time in nanoseconds."""
        pipeline = self._client.pipeline(transaction=False)
        pipeline.set(f"{SHARD}:virtual_time", now // 1000)
        pipeline.evalsha(self._digest, 1, SHARD, operation, self.epoch, *arguments)
        reply = pipeline.execute()[1]
        assert reply[0] == b"ok", reply
        return reply


class PairedBook:
    """A book for one shard that checks the scripts against the pure one, at every step."""

    def __init__(self, client, timing: LeaseTiming, *, epoch: int, sign: Signer) -> None:
        self.pure = LeaseBook(timing, epoch=epoch, sign=sign)
        self.scripts = Scripts(client, epoch)
        self._sign = sign
        self._timing = timing
        self._has_begun = False
        self._specs: dict[str, LimitSpec] = {}
        self._confirmed: tuple[NumberedPromise, ...] = ()
        self._next_time: int | None = None

    def configure(self, key: str, spec: LimitSpec, now: int) -> None:
        """
        Have a limit. The scripts hear of a new one with what comes next, which is at the same time,
        and of one that has changed at once.
        """
        now = self._begin(now)
        known = self.pure.limit(key)
        is_changed = known is not None and known.spec != spec
        self.pure.configure(key, spec, now)
        self._specs[key] = spec
        if is_changed:
            self._sync(now)

    def restore(
        self,
        key: str,
        *,
        holdings: Mapping[str, Holding],
        ceiling: int = 0,
        owed: int = 0,
        now: int,
    ) -> None:
        """Take over what a predecessor has promised of a limit that is configured."""
        now = self._begin(now)
        self.pure.restore(key, ceiling=ceiling, holdings=holdings, owed=owed, now=now)
        spec = self._specs.pop(key)
        restored = restore_arguments(
            spec.units + owed, ceiling, holdings, is_of_this_epoch=True, unseen_ns=0
        )
        assert self.scripts.call("add", now, _SERVER, key, *spec_arguments(spec), *restored)[1]

    def receive(self, report: Report, now: int) -> bool:
        """Take in a report."""
        now = self._begin(now)
        is_new = self.pure.receive(report, now)
        synced = self._sync(now, reports=[report])
        assert synced.taken[0].is_new == is_new
        known = set(self.pure.keys)
        if is_new:
            unknown = {one.key for one in report.demands} - known
            assert set(synced.taken[0].unknown) == unknown
        return is_new

    def release(self, agent: str, incarnation: int, now: int) -> None:
        """End a session."""
        now = self._begin(now)
        self.pure.release(agent, incarnation, now)
        self.scripts.call("release", now, agent, incarnation)

    def settle(self, now: int) -> Decision:
        """Decide, twice."""
        now = self._begin(now)
        decision = self.pure.settle(now)
        synced = self._sync(now, is_settled=True)
        assert tuple(one.promise for one in synced.promises) == decision.promises
        for one, grant in zip(synced.grants, decision.grants, strict=True):
            assert one.grant == grant
        assert all(one.sequence == self.heard(one.grant.agent) for one in synced.grants)
        assert not synced.has_more
        self._confirmed = synced.promises
        soonest = self.pure.next_time()
        # The scripts count microseconds.
        self._next_time = None if soonest is None else -(-soonest // 1000) * 1000
        assert synced.next_time == self._next_time
        return decision

    def next_time(self) -> int | None:
        """When something ends by itself."""
        return self._next_time

    def heard(self, agent: str) -> int:
        """The newest request that was taken in."""
        return self.pure.heard(agent)

    def limit(self, key: str) -> Limit | None:
        """A limit as it is now, to be looked at."""
        return self.pure.limit(key)

    def session(self, agent: str) -> Session | None:
        """An agent's session as it is now, to be looked at."""
        return self.pure.session(agent)

    def compare(self, now: int) -> None:
        """Compare all that both remember of limits and shares."""
        now = self._begin(now)
        (listed,) = self.scripts.call("list", now, "", 1000)[1:]
        assert [entry[0].decode() for entry in listed] == sorted(self.pure.keys)
        for entry in listed:
            key = entry[0].decode()
            limit = self.pure.limit(key)
            _, description, holders = self.scripts.call("show", now, key, 1000)
            assert description[1:4] == spec_arguments(limit.spec)
            assert description[4] == limit.out
            view = view_limit(self.pure, key, now)
            assert view is not None
            assert description[9] == view.unclaimed
            assert {
                agent.decode(): facts for agent, *facts in (holder[:6] for holder in holders)
            } == {
                agent: [share.granted, share.booked, share.floor, share.in_use, share.wants]
                for agent, share in limit.shares.items()
            }

    def _begin(self, now: int) -> int:
        now = now // 1000 * 1000
        if not self._has_begun:
            self._has_begun = True
            self.scripts.call("begin", now, terms_text(self._timing))
        return now

    def _sync(self, now: int, *, reports=(), is_settled: bool = False):
        for key, spec in self._specs.items():
            self.scripts.call("add", now, _SERVER, key, *spec_arguments(spec))
        stated = [report_arguments(report, part=0, sign=self._sign) for report in reports]
        arguments = sync_arguments(
            server=_SERVER,
            confirmed=self._confirmed,
            specs=self._specs,
            reports=stated,
            is_settled=is_settled,
        )
        self._specs, self._confirmed = {}, ()
        return read_synced(self.scripts.call("sync", now, *arguments), self._sign)
