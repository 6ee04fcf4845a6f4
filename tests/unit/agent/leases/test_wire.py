"""Demands and grants over the wire: named once, shown where they have to be, never rounded up."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from agent.leases.wire import Handles, answer_of, report_message, times_of
from agent.limits.limit import LimitPath
from agent.limits.messages import Demand, Report
from penstock.v1 import limit_service_pb2 as pb

_NANO = 1_000_000_000
_PATHS = tuple(
    LimitPath(routing_domain=f"d{n}.example", egress_source="ip-1", mx_hosts=(("mx", 10),))
    for n in range(2)
)


def _demand(key: str = "k", **fields) -> Demand:
    known: dict[str, Any] = {"wants": 3, "enforced": 2, "version": (4 << 32) + 1, "returned": 0}
    known |= {"granted": 2, "floor": 1, "proof": b"p"}
    return Demand(key=key, **(known | fields))


def _write(
    demand: Demand, handles: Handles, *, paths=_PATHS, epoch: int = 4, parts: int = 0
) -> list[pb.LimitDemand]:
    report = Report(agent="a", incarnation=7, sequence=9, demands=(demand,))
    message = report_message(
        report,
        handles,
        lambda key: paths,
        worker="w",
        host="h",
        shapes=lambda key: parts,
        epoch=epoch,
    )
    said = (message.worker, message.host, message.incarnation, message.sequence)
    assert said == ("w", "h", 7, 9)
    return list(message.demands)


def test_a_limit_is_named_with_its_paths_once_a_stream():
    handles = Handles()

    [first] = _write(_demand(), handles)
    [second] = _write(_demand(wants=5), handles)

    assert (first.key, len(first.paths), first.claim.proof) == ("k", 2, b"p")
    assert first.paths[0].mx_hosts[0].host == "mx"
    assert (second.key, len(second.paths), second.handle) == ("", 0, first.handle)
    assert not second.HasField("claim")
    assert handles.key_of(second.handle) == "k"


def test_a_path_that_comes_later_is_named_by_itself():
    handles = Handles()
    _write(_demand(), handles, paths=_PATHS[:1])

    [second] = _write(_demand(), handles)

    assert [path.routing_domain for path in second.paths] == ["d1.example"]
    assert second.key == ""


def test_a_limit_that_nobody_uses_any_more_is_left_out_of_a_new_stream():
    assert _write(_demand(), Handles(), paths=()) == []


def test_a_limit_that_the_server_has_forgotten_is_named_anew():
    handles = Handles()
    [first] = _write(_demand(), handles)
    handles.forget("k")

    [second] = _write(_demand(), handles)

    assert (second.key, len(second.paths)) == ("k", 2)
    assert second.handle != first.handle
    assert handles.key_of(first.handle) == handles.key_of(second.handle) == "k"


def test_a_grant_of_another_epoch_is_shown():
    handles = Handles()
    _write(_demand(), handles)

    [message] = _write(_demand(), handles, epoch=5)

    assert (message.claim.units, message.claim.floor, message.claim.proof) == (2, 1, b"p")


@given(
    period=st.integers(1, 86_400 * _NANO),
    units=st.integers(1, 100_000),
    share=st.floats(0, 1),
)
def test_events_on_their_way_never_grow(period, units, share):
    """What goes back, and comes again, is no more than it was: two roundings, both down."""
    parts = period * units
    returned = int(parts * units * share)

    handles = Handles()
    [message] = _write(_demand(returned=returned), handles, parts=parts)
    answer = pb.LimitAnswer(incarnation=7, sequence=9)
    grant = answer.grants.add(handle=message.handle, units=units, limit=units, rate_count=1)
    grant.rate_period.FromNanoseconds(period)
    grant.fill_nano_events = message.returned_nano_events
    [heard] = answer_of(answer, handles).grants

    assert heard.event_parts == parts
    assert heard.fill <= returned
    assert returned - heard.fill <= parts // _NANO + 1


def test_grants_that_the_stream_can_not_name_are_left_out():
    answer = pb.LimitAnswer()
    answer.grants.add(handle=5, units=1)
    answer.grants.add(key="by-key", units=2, limit=8)

    [grant] = answer_of(answer, Handles()).grants

    assert (grant.key, grant.units, grant.event_parts, grant.earns) == ("by-key", 2, 0, 0)


@given(session=st.integers(1, 10**12), drift=st.integers(0, 10_000), ahead=st.integers(0, 10**9))
def test_spans_are_never_longer_than_the_server_says(session, drift, ahead):
    terms = pb.LeaseTerms(drift=drift)
    terms.session_ttl.FromNanoseconds(session)
    terms.floor_ttl.FromNanoseconds(session + ahead)
    terms.drain_time.FromNanoseconds(ahead)

    times = times_of(terms)

    assert 0 <= times.session <= session
    assert times.session <= times.floor <= session + ahead
    assert times.drain <= ahead
