import math
from typing import Any

from agent.policy.answer import Suspension
from agent.policy.cache import AnswerCache, SuspensionSet
from agent.policy.effective import effective_policy
from penstock.v1.egress_path_pb2 import EgressPathConfig, Limit
from tests.unit.agent.policy.answers import NOW, override, response, stored


def _suspension(action_id: int, end: float = 60, **fields) -> Suspension:
    known: dict[str, Any] = {
        "egress_source": "ip-1",
        "site_name": "mx.foo.example",
        "routing_domain": "",
    }
    known |= {"reason": "told to slow down", "expire_time": NOW + end}
    return Suspension(action_id=action_id, **(known | fields))


POLICY = effective_policy(stored(response()), NOW)


def test_the_least_recently_used_answer_makes_room():
    cache = AnswerCache(2)
    for domain in ("a.example", "b.example"):
        cache.put(stored(response(), domain), now=NOW, refresh_at=NOW)
    cache.get("a.example", "ip-1", NOW)

    evicted = cache.put(stored(response(), "c.example"), now=NOW, refresh_at=NOW)

    assert [entry.answer.key.routing_domain for entry in evicted] == ["b.example"]
    hottest = [entry.answer.key.routing_domain for entry in cache.hottest_first()]
    assert hottest == ["c.example", "a.example"]


def test_the_policy_is_worked_out_anew_when_an_override_ends():
    cache = AnswerCache(2)
    slow = EgressPathConfig(connection_limit=Limit(value=1))
    ruled = EgressPathConfig(connection_limit=Limit(value=8))
    overrides = [override("connection_limit", NOW + 5)]
    answer = stored(response(slow, ruled_config=ruled, overrides=overrides))
    cache.put(answer, now=NOW, refresh_at=NOW + 60)

    before = cache.get("foo.example", "ip-1", NOW + 4)
    assert before is not None
    assert before.policy.config == slow
    after = cache.get("foo.example", "ip-1", NOW + 5)
    assert after is not None
    assert after.policy.config == ruled
    assert cache.next_override_end(NOW) == NOW + 5
    assert cache.next_override_end(NOW + 5) == math.inf


def test_of_several_suspensions_the_one_that_ends_last_is_told():
    held = SuspensionSet(10)
    for number, end in ((1, 30), (2, 90), (3, 60)):
        held.put(_suspension(number, end))

    found = held.of(POLICY, NOW)

    assert found is not None
    assert found.action_id == 2
    assert held.of(POLICY, NOW + 90) is None
    assert held.ended(NOW + 60) == [1, 3]
    assert held.next_end() == NOW + 30


def test_a_suspension_holds_its_own_path_alone():
    held = SuspensionSet(10)
    held.put(_suspension(1, egress_source="ip-2"))
    held.put(_suspension(2, site_name="other"))
    held.put(_suspension(3, routing_domain="bar.example"))

    assert held.of(POLICY, NOW) is None


def test_a_suspension_that_moved_leaves_nothing_behind():
    held = SuspensionSet(10)
    held.put(_suspension(1))

    held.put(_suspension(1, site_name="other"))

    assert held.of(POLICY, NOW) is None
    assert held.remove(1)
    assert not held.remove(1)
    assert len(held) == 0


def test_the_set_is_bounded_but_takes_news_of_what_it_holds():
    held = SuspensionSet(1)

    assert held.put(_suspension(1))
    assert not held.put(_suspension(2))
    assert held.put(_suspension(1, end=120))
