import math
from typing import Any

from agent.policy.answer import Suspension
from agent.policy.cache import AnswerCache
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
