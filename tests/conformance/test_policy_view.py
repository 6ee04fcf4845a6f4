"""Revision and actions of a policy are of one moment, whoever writes while they are read."""

from datetime import UTC, datetime, timedelta

from policy_server.automation.decide import Match
from policy_server.dns import MxResolver
from policy_server.metrics import ServerMetrics
from policy_server.policy import Policy
from policy_server.store.actions import ActionStore, count_and_act
from policy_server.store.database import Database
from policy_server.store.schema import upgrade
from tests.unit.policy_server.automation.examples import make_outcome, make_rule


def _suspend(database, event_id):
    now = datetime.now(UTC)
    outcome = make_outcome(event_id, event_time=now, site_name=event_id)
    match = Match(rule=make_rule(duration=timedelta(hours=1)), outcome=outcome)
    database.write_now(lambda connection: count_and_act(connection, matches=[match], now=now))


async def test_what_is_written_while_a_policy_reads_belongs_to_the_next_revision(database_url):
    database, other = Database(database_url), Database(database_url)
    upgrade(database)
    policy = Policy(
        database,
        actions=ActionStore(database),
        resolver=MxResolver(nameservers=("127.0.0.1:9",), timeout=timedelta(seconds=1)),
        metrics=ServerMetrics(),
    )
    _suspend(other, "first")
    catch_up = policy._keeper.catch_up

    def catch_up_while_another_writes(connection, since, stamp=None):
        changes = catch_up(connection, since, stamp)
        _suspend(other, "second")
        return changes

    policy._keeper.catch_up = catch_up_while_another_writes  # type: ignore[method-assign]
    await policy.reload()
    before = policy.revision, [action.site_name for action in policy.actions()]
    policy._keeper.catch_up = catch_up  # type: ignore[method-assign]
    await policy.reload()
    after = policy.revision, [action.site_name for action in policy.actions()]

    assert before == (after[0] - 1, ["first"])
    assert after[1] == ["first", "second"]
    await policy.close()
    await database.aclose()
    other.close()
