"""Books with a fault each, which simulated fleets have to find."""

from collections.abc import Mapping

from policy_server.limits.book import LeaseBook
from policy_server.limits.messages import Decision, Holding
from policy_server.limits.spec import LimitSpec


class HastyBook(LeaseBook):
    """Lends again what it has asked back, before its agent has said that it has heard so."""

    def settle(self, now: int) -> Decision:
        decision = super().settle(now)
        for grant in decision.grants:
            limit = self.limit(grant.key)
            limit.book(limit.shares[grant.agent], booked=grant.units, floor=grant.floor)
        return decision


class ForgetfulBook(LeaseBook):
    """Takes nothing over from the book before it."""

    def restore(
        self,
        key: str,
        *,
        holdings: Mapping[str, Holding],
        ceiling: int = 0,
        owed: int = 0,
        now: int,
    ) -> None:
        pass


class StubbornBook(LeaseBook):
    """Never takes a changed limit for what it is."""

    def configure(self, key: str, spec: LimitSpec, now: int) -> None:
        if self.limit(key) is None:
            super().configure(key, spec, now)
