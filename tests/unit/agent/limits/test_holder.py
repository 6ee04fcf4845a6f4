"""What an agent holds: told in parts, forgotten when unused, taken on by another book."""

from hypothesis import given
from hypothesis import strategies as st

from agent.limits.holder import LeaseHolder
from agent.limits.messages import Answer, Report
from tests.unit.agent.limits.leases import SECOND, TIMES, Lender, connections, make_holder, messages


def test_what_is_in_use_is_told_first_and_every_limit_once():
    holder, lender = make_holder()
    limits = [connections(f"c{number}") for number in range(10)]
    for limit in limits:
        holder.want(limit.key, 1)
    lender.answer(*(lender.grant(limit, 1) for limit in limits), at=0)
    for key in ("c4", "c7"):
        assert holder.try_open(key, 1)
    holder.meet_anew()

    told = [[one.key for one in holder.report(2, most=4).demands] for _ in range(3)]

    assert set(told[0]) > {"c4", "c7"}
    assert len(told[0]) == len(told[1]) == 4
    assert set(told[0] + told[1] + told[2]) == {limit.key for limit in limits}
    assert not holder.has_more_to_tell


def test_a_limit_that_nobody_uses_is_forgotten_once_the_server_knows():
    holder, lender = make_holder()
    limit = connections()
    holder.want("c", 2)
    lender.answer(lender.grant(limit, 2), at=0)
    holder.want("c", 0)
    lender.answer(lender.grant(limit, 0), at=SECOND)
    for second in (2, 3, 70):
        lender.answer(at=second * SECOND)
        holder.forget_unused(second * SECOND)

    assert not list(holder.leases())


def test_a_limit_with_an_open_connection_is_never_forgotten():
    holder, lender = make_holder()
    holder.open_anyway("c")
    for second in (0, 1, 70, 700):
        lender.answer(at=second * SECOND)
        holder.forget_unused(second * SECOND)

    assert holder.in_use("c") == 1
    assert lender.holder.report(701 * SECOND).demands == ()


def test_after_a_lapse_all_is_told_anew_for_the_server_may_have_ended_it():
    holder, lender = make_holder()
    holder.want("c", 2)
    lender.answer(lender.grant(connections(), 2, floor=2), at=0)
    lender.answer(at=SECOND)
    assert holder.report(2 * SECOND).demands == ()

    back = 2 * TIMES.session
    [told] = holder.report(back).demands

    assert (told.key, told.wants) == ("c", 2)
    # An answer that says nothing of now does not make it known.
    lender.answer(at=3 * SECOND, heard_at=back)
    assert [one.key for one in holder.report(back).demands] == ["c"]


def test_what_was_said_before_is_said_again_unless_it_was_heard_last_for_certain():
    """Each request may be heard or lost, and each answer may be late or lost."""
    holder, lender = make_holder()

    def report(wants: int) -> Report:
        holder.want("c", wants)
        return holder.report(SECOND)

    def answer(sequence: int) -> None:
        holder.hear(Answer(epoch=1, incarnation=1, sequence=sequence), SECOND)

    lender.answer(lender.grant(connections(), 0), at=0)
    first, second, third = report(1), report(0), report(1)
    answer(first.sequence)

    # The second may be what was heard last.
    assert [one.wants for one in report(1).demands] == [1]
    answer(second.sequence)
    assert [one.wants for one in report(1).demands] == [1]
    answer(third.sequence)
    assert report(1).demands == ()


def test_another_book_is_told_all_but_what_it_has_answered():
    holder, _ = make_holder()
    before, after = Lender(holder, epoch=1), Lender(holder, epoch=2)
    limits = [connections(key) for key in "ab"]
    before.answer(*(before.grant(limit, 5) for limit in limits), at=0)
    before.answer(at=SECOND)
    assert not holder.has_more_to_tell

    holder.want("a", 3)
    after.answer(at=2 * SECOND)

    assert [one.key for one in holder.report(2 * SECOND).demands] == ["b"]


def test_another_book_with_lower_epochs_is_believed_once_all_is_said_anew():
    holder, _ = make_holder()
    before, after = Lender(holder, epoch=9), Lender(holder, epoch=2)
    limit = connections()
    before.answer(before.grant(limit, 5), at=0)

    holder.meet_anew()
    holder.begin_anew()
    [claim] = holder.report(SECOND).demands
    assert (claim.enforced, claim.version) == (5, 0)
    after.answer(after.grant(limit, 3), at=SECOND)

    assert holder.cap("c", SECOND) == 3


def test_without_times_nothing_holds():
    holder = LeaseHolder(agent="a", incarnation=1)
    lender = Lender(holder)
    lender.answer(lender.grant(connections(), 5), at=0, heard_at=1)

    assert holder.cap("c", 1) == 0


def test_when_less_will_hold_is_known():
    holder, lender = make_holder()
    lender.answer(lender.grant(connections(), 5, floor=2), at=0)

    lapse = TIMES.session
    assert holder.next_lapse(SECOND) == lapse
    assert holder.cap("c", lapse - 1) == 5
    assert holder.cap("c", lapse) == 2
    assert holder.next_lapse(lapse) == lapse + TIMES.drain


@given(
    units=st.integers(1, 20),
    count=st.integers(1, 1000),
    seconds=st.sampled_from([1, 60, 3600]),
    ahead=st.integers(0, 30),
)
def test_the_wait_is_as_long_as_it_takes_and_no_longer_than_clocks_ask(
    units, count, seconds, ahead
):
    holder, lender = make_holder()
    limit = messages(count=count, seconds=seconds, burst=20)
    lender.answer(lender.grant(limit, units, fill=0), at=0)

    wait = holder.wait_ns("m", 0, ahead)

    assert wait is not None
    exact = (ahead + 1) * 20 * seconds * SECOND / (units * count)
    assert exact <= wait <= exact * 1.0001 + 2
    if ahead == 0 and wait < TIMES.session:
        assert not holder.try_pass("m", int(exact) - 1)
        assert holder.try_pass("m", wait)


@given(
    units=st.integers(0, 6),
    floor=st.integers(0, 6),
    opened=st.integers(0, 8),
    given_at=st.integers(0, 2 * TIMES.floor),
    after=st.integers(0, 2 * TIMES.floor),
)
def test_who_gives_way_uses_nothing_until_it_is_lent_something_anew(
    units: int, floor: int, opened: int, given_at: int, after: int
):
    holder, lender = make_holder()
    limit, rate = connections(), messages()
    lender.answer(
        lender.grant(limit, units, floor=min(units, floor)), lender.grant(rate, 3, floor=2), at=0
    )
    for _ in range(opened):
        holder.open_anyway("c")
    asked = holder.report(given_at)

    holder.give_way(given_at)

    now = given_at + after
    late = Answer(epoch=1, incarnation=1, sequence=asked.sequence, grants=())
    assert holder.hear(late, given_at)
    assert (holder.cap("c", now), holder.cap("m", now)) == (0, 0)
    assert not holder.try_pass("m", now)
    assert holder.is_over(now)
    assert holder.surplus("c", now) == opened
    assert holder.must_close("c", now) == (opened if after >= TIMES.drain else 0)
    lender.answer(lender.grant(limit, 2), at=now)
    assert holder.cap("c", now) == 2


def test_what_is_beyond_a_floor_has_to_go_even_if_the_agent_slept_until_the_floor_was_over():
    holder, lender = make_holder()
    holder.want("c", 4)
    lender.answer(lender.grant(connections(), 4, floor=3), at=0)
    for _ in range(4):
        assert holder.try_open("c", 1)
    assert holder.must_close("c", TIMES.session + TIMES.drain - 1) == 0

    assert holder.must_close("c", TIMES.floor + 1) == 1
    assert holder.must_close("c", TIMES.floor + TIMES.drain) == 4


@given(
    units=st.integers(2, 20),
    floor=st.integers(1, 20),
    count=st.integers(1, 10),
    seconds=st.integers(int(TIMES.session // SECOND), int(2 * TIMES.floor // SECOND)),
)
def test_an_agent_that_stood_still_has_earned_no_more_than_one_that_looked_in_time(
    units, floor, count, seconds
):
    limit = messages(count=count, seconds=60, burst=20)
    now = seconds * SECOND
    agents = [make_holder() for _ in range(2)]
    for _, lender in agents:
        lender.answer(lender.grant(limit, units, floor=min(floor, units), fill=0), at=0)
    (in_time, _), (late, _) = agents

    for lapse in (TIMES.session, TIMES.floor):
        if lapse <= now:
            in_time.cap("m", lapse)

    assert late.free_events("m", now) == in_time.free_events("m", now)
