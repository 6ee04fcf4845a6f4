import math

from hypothesis import given
from hypothesis import strategies as st

from agent.policy.cache import AnswerCache
from agent.policy.effective import next_override_end
from penstock.v1.egress_path_pb2 import EgressPathConfig, Limit
from tests.unit.agent.policy.answers import NOW, override, response, stored


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

    assert cache.next_override_end(NOW) == NOW + 5
    before = cache.get("foo.example", "ip-1", NOW + 4)
    assert before is not None
    assert before.policy.config == slow
    after = cache.get("foo.example", "ip-1", NOW + 5)
    assert after is not None
    assert after.policy.config == ruled
    assert cache.next_override_end(NOW + 5) == math.inf


@given(
    answers=st.lists(
        st.tuples(
            st.sampled_from(["a.example", "b.example", "c.example"]),
            st.lists(st.integers(1, 20), max_size=2),
        ),
        max_size=12,
    ),
    looks=st.lists(st.integers(0, 21), max_size=4).map(sorted),
)
def test_the_next_end_is_that_of_any_answer_held(answers, looks):
    cache = AnswerCache(2)
    for domain, ends in answers:
        overrides = [override("connection_limit", NOW + end, end) for end in ends]
        answer = stored(response(ruled_config=EgressPathConfig(), overrides=overrides), domain)
        cache.put(answer, now=NOW, refresh_at=NOW)

    for look in looks:
        held = [next_override_end(one.answer, NOW + look) for one in cache.hottest_first()]
        assert cache.next_override_end(NOW + look) == min(held, default=math.inf)
