"""Every holder has a name of its own in the book, from which it can be told."""

from hypothesis import given
from hypothesis import strategies as st

from penstock.v1 import limit_service_pb2 as pb
from policy_server.conversions.holders import Holder

#: Mostly what is special in a name of the book.
_AGENTS = st.text(alphabet="ab/@", min_size=1, max_size=8) | st.text(min_size=1, max_size=8)
_NAMES = st.from_regex(r"[A-Za-z0-9._-]{0,6}", fullmatch=True)
_HOLDERS = st.builds(Holder, _AGENTS, _NAMES, _NAMES)


@given(_HOLDERS)
def test_a_name_says_whose_it_is(holder: Holder) -> None:
    assert Holder.parse(holder.name) == holder


@given(_HOLDERS, _HOLDERS)
def test_no_two_have_one_name(one: Holder, other: Holder) -> None:
    assert (one.name == other.name) == (one == other)


def test_who_says_no_host_has_the_name_it_always_had() -> None:
    report = pb.LimitReport(worker="worker-1")
    assert Holder.of("mta-1", report).name == "mta-1/worker-1"
