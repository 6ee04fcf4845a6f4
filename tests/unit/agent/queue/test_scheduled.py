import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from agent.queue.entry import Entry
from agent.queue.scheduled import ScheduledQueues


def entry(number: int, due: float, queue_name: str = "q") -> Entry:
    return Entry(id=number, queue_name=queue_name, created=0.0, due=due)


def ids(entries: list[Entry]) -> list[int]:
    return [item.id for item in entries]


@pytest.fixture
def queues() -> ScheduledQueues:
    return ScheduledQueues()


def test_entries_come_out_when_due_and_no_sooner(queues):
    for number, due in ((1, 30.0), (2, 10.0), (3, 20.0)):
        queues.add(entry(number, due))

    assert queues.next_due() == 10.0
    assert ids(queues.pop_due(9.9, 10)) == []
    assert ids(queues.pop_due(20.0, 10)) == [2, 3]
    assert len(queues) == 1
    assert queues.counts() == {"q": 1}


def test_no_more_come_out_than_are_asked_for(queues):
    for number in range(5):
        queues.add(entry(number, 0.0))

    assert ids(queues.pop_due(1.0, 2)) == [0, 1]
    assert ids(queues.pop_due(1.0, 9)) == [2, 3, 4]


def test_a_new_due_time_replaces_the_old(queues):
    item = entry(1, 10.0)
    queues.add(item)
    item.due = 50.0
    queues.add(item)

    assert len(queues) == 1
    assert ids(queues.pop_due(10.0, 9)) == []
    assert queues.next_due() == 50.0
    assert ids(queues.pop_due(50.0, 9)) == [1]
    assert queues.next_due() is None


def test_a_held_queue_keeps_its_mail_and_gives_it_at_once_when_released(queues):
    queues.add(entry(1, 10.0, "held"))
    queues.add(entry(2, 20.0, "free"))
    queues.hold("held")

    assert queues.next_due() == 10.0
    assert ids(queues.pop_due(10.0, 9)) == []
    assert queues.next_due() == 20.0
    assert ids(queues.pop_due(30.0, 9)) == [2]
    assert queues.counts() == {"held": 1}
    assert queues.is_held("held")

    queues.release("held")
    assert queues.next_due() == 10.0
    assert ids(queues.pop_due(30.0, 9)) == [1]


def test_what_is_removed_while_held_does_not_come_back(queues):
    item = entry(1, 10.0)
    queues.add(item)
    queues.hold("q")
    assert queues.pop_due(20.0, 9) == []

    assert queues.remove(item)
    assert not queues.remove(item)
    queues.release("q")

    assert queues.pop_due(20.0, 9) == []
    assert len(queues) == 0


def test_the_next_look_is_due_less_than_a_second_early(queues):
    queues.add(entry(1, 10.75))

    assert queues.next_due() == 10.0
    assert queues.pop_due(10.0, 9) == []
    assert queues.next_due() == 10.75


@pytest.mark.parametrize("step", [1.0, 0.0], ids=["due at other times", "due at the same time"])
def test_dead_references_do_not_pile_up(queues, step):
    item = entry(1, 0.0)
    for number in range(20_000):
        item.due = 5.0 + number * step
        queues.add(item)

    assert len(list(queues._references())) <= 1026
    assert ids(queues.pop_due(30_000.0, 9)) == [1]
    assert queues.pop_due(30_000.0, 9) == []
    assert list(queues._references()) == []


def test_a_time_without_end_is_a_time(queues):
    queues.add(entry(1, float("inf")))

    assert queues.pop_due(1e12, 9) == []
    assert len(queues) == 1


def test_what_waits_can_be_taken_out_from_a_snapshot(queues):
    first, second, third = (entry(number, number * 10.0) for number in (1, 2, 3))
    for item in (first, second, third):
        queues.add(item)
    found = queues.snapshot()
    queues.remove(second)

    assert sorted(ids(found)) == [1, 2, 3]
    assert sorted(ids(queues.take(found))) == [1, 3]
    assert queues.snapshot() == []


def test_of_equal_due_times_the_oldest_comes_first(queues):
    for number in (5, 3, 4):
        queues.add(entry(number, 1.0))

    assert ids(queues.pop_due(1.0, 9)) == [3, 4, 5]
    assert queues.entries_of("q") == []


class Model(RuleBasedStateMachine):
    """Compares the queues with a plain dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.queues = ScheduledQueues()
        self.waiting: dict[int, Entry] = {}
        self.held: set[str] = set()
        self.now = 0.0

    @rule(
        number=st.integers(0, 15),
        due=st.integers(-2, 80).map(lambda quarters: quarters / 4),
        queue=st.sampled_from("ab"),
    )
    def add(self, number: int, due: float, queue: str) -> None:
        item = self.waiting.get(number) or entry(number, 0.0, queue)
        item.due = self.now + due
        self.queues.add(item)
        self.waiting[number] = item

    @rule(number=st.integers(0, 15))
    def remove(self, number: int) -> None:
        if number in self.waiting:
            assert self.queues.remove(self.waiting.pop(number))

    @rule(queue=st.sampled_from("ab"))
    def hold(self, queue: str) -> None:
        self.queues.hold(queue)
        self.held.add(queue)

    @rule(queue=st.sampled_from("ab"))
    def release(self, queue: str) -> None:
        self.queues.release(queue)
        self.held.discard(queue)

    @rule(pause=st.integers(0, 10), limit=st.integers(1, 5))
    def pop(self, pause: int, limit: int) -> None:
        self.now += pause
        due = [item for item in self._free() if item.due <= self.now]
        popped = self.queues.pop_due(self.now, limit)
        assert len(popped) == min(limit, len(due))
        assert sorted(item.due for item in due)[: len(popped)] == [item.due for item in popped]
        for item in popped:
            assert self.waiting.pop(item.id) is item

    @invariant()
    def sizes_agree(self) -> None:
        assert len(self.queues) == len(self.waiting)
        assert sum(self.queues.counts().values()) == len(self.waiting)

    @rule()
    def next_due(self) -> None:
        due = min((item.due for item in self._free()), default=None)
        found = self.queues.next_due()
        if due is None:
            # Nothing, or a span whose mail is all held or gone.
            assert found is None or self.queues.pop_due(found, 1) == []
        else:
            assert found is not None
            assert found <= due
            # No look is in vain for longer than the spans before it last.
            if found <= min(self.now, due) - 1 and found != due:
                # What was due before is due later now: one look, and no more, is in vain.
                assert self.queues.pop_due(found, 1) == []
                assert (self.queues.next_due() or 0) > found

    @invariant()
    def everything_can_be_found(self) -> None:
        found = {item.id: item for item in self.queues.snapshot()}
        assert found.keys() == self.waiting.keys()
        for queue in "ab":
            of_queue = [item for item in self.waiting.values() if item.queue_name == queue]
            assert len(self.queues.entries_of(queue)) == len(of_queue)

    def _free(self) -> list[Entry]:
        return [item for item in self.waiting.values() if item.queue_name not in self.held]


TestModel = Model.TestCase
TestModel.settings = hypothesis_settings(max_examples=50, stateful_step_count=40)


@given(st.lists(st.floats(0, 1e6), max_size=50))
def test_draining_gives_everything_in_order_of_due_time(dues):
    queues = ScheduledQueues()
    for number, due in enumerate(dues):
        queues.add(entry(number, due))

    assert [item.due for item in queues.pop_due(1e6, len(dues) + 1)] == sorted(dues)
