"""Lines of logs, and lines that people write, read as outcomes."""

import contextlib
import gzip
import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.delivery.record import Record, RecordType, Response
from agent.outcomes.lines import format_line
from policy_server.automation.outcomes import OutcomeType, Reply, reply_text
from policy_server.conversions.outcomes import from_outcome, to_outcome
from policy_server.rules.site import MxHost
from policy_server.trials.outcome_files import MAX_MISTAKES, OutcomeFiles
from policy_server.trials.outcome_lines import BadLine, read_line

_NOW = datetime(2026, 8, 1, 12, tzinfo=UTC)


def _read(line, **others):
    text = line if isinstance(line, str) else json.dumps(line | others)
    return read_line(text, event_id="replies.jsonl:1", time=_NOW)


_MINIMAL = {"reply": "421 4.7.0 [TS01] deferred", "domain": "Yahoo.com", "source": "ip-1"}
_LOGGED = {
    "type": "TransientFailure",
    "id": "0123456789abcdef",
    "sender": "a@b.example",
    "recipient": "joe@Yahoo.com",
    "queue": "news:acme@yahoo.com",
    "site": "ip-1->(mta5|mta6).am0.yahoodns.net@smtp_client",
    "response": {
        "code": 421,
        "enhanced_code": {"class": 4, "subject": 7, "detail": 0},
        "content": "[TS01] deferred",
        "command": "DATA",
    },
    "timestamp": 1785585600,
    "num_attempts": 2,
    "egress_pool": "default",
    "egress_source": "ip-1",
    "provider_name": None,
    "meta": {},
}


def test_a_line_that_a_person_wrote():
    read = _read(_MINIMAL)

    outcome = read.outcome
    assert read.is_site_open
    assert (outcome.recipient_domain, outcome.routing_domain) == ("yahoo.com", "yahoo.com")
    assert (outcome.egress_source, outcome.site_name, outcome.internal) == ("ip-1", "", False)
    assert (outcome.type, outcome.event_time) == (OutcomeType.TRANSIENT_FAILURE, _NOW)
    assert outcome.reply == Reply(code=421, enhanced_code=(4, 7, 0), content="[TS01] deferred")


def test_what_a_person_may_add():
    hosts = ["mta5.am0.yahoodns.net", {"host": "MTA6.am0.yahoodns.net.", "preference": 2}]

    read = _read(
        _MINIMAL,
        mx=hosts,
        time="2026-08-01T14:00:00+02:00",
        tenant="acme",
        campaign="news",
        type="Bounce",
        internal=True,
        event_id="e7",
    )

    assert not read.is_site_open
    assert read.mx_hosts == (
        MxHost("mta5.am0.yahoodns.net"),
        MxHost("mta6.am0.yahoodns.net", 2),
    )
    outcome = read.outcome
    assert outcome.site_name == "(mta5|mta6).am0.yahoodns.net"
    assert (outcome.tenant, outcome.campaign) == ("acme", "news")
    assert (outcome.type, outcome.internal, outcome.event_id) == (OutcomeType.BOUNCE, True, "e7")
    assert outcome.event_time == _NOW


@pytest.mark.parametrize(
    ("text", "reply", "kind"),
    [
        ("250 ok", Reply(code=250, content="ok"), OutcomeType.DELIVERY),
        ("550", Reply(code=550), OutcomeType.BOUNCE),
        (
            "550 5.1.1 gone",
            Reply(code=550, enhanced_code=(5, 1, 1), content="gone"),
            OutcomeType.BOUNCE,
        ),
        (
            "452-4.2.2 over\r\n452 4.2.2 quota",
            Reply(code=452, enhanced_code=(4, 2, 2), content="over\nquota"),
            OutcomeType.TRANSIENT_FAILURE,
        ),
        ("421 4.7.0", Reply(code=421, enhanced_code=(4, 7, 0)), OutcomeType.TRANSIENT_FAILURE),
        (
            "421 192.0.2.7 is listed",
            Reply(code=421, content="192.0.2.7 is listed"),
            OutcomeType.TRANSIENT_FAILURE,
        ),
    ],
)
def test_a_reply_as_a_peer_writes_it(text, reply, kind):
    outcome = _read(_MINIMAL, reply=text).outcome

    assert (outcome.reply, outcome.type) == (reply, kind)


def test_a_line_of_kumomta():
    outcome = _read(_LOGGED).outcome

    assert (outcome.recipient_domain, outcome.egress_source) == ("yahoo.com", "ip-1")
    assert outcome.site_name == "(mta5|mta6).am0.yahoodns.net"
    assert outcome.path_name == "ip-1->(mta5|mta6).am0.yahoodns.net"
    assert (outcome.tenant, outcome.campaign) == ("acme", "news")
    assert outcome.event_time == _NOW
    assert reply_text(outcome.reply) == "421 4.7.0 [TS01] deferred"
    assert (outcome.num_attempts, outcome.internal) == (2, False)


def test_what_kumomta_made_itself_is_internal():
    response = {"code": 451, "content": "KumoMTA internal: connection failed"}

    assert _read(_LOGGED, response=response).outcome.internal


@pytest.mark.parametrize("kind", ["Reception", "Delayed", "Rejection", "AdminRebind"])
def test_lines_of_other_types_are_passed_over(kind):
    assert _read({"type": kind}) is None


def test_each_line_that_an_agent_logs_is_read_as_it_was_reported():
    record = Record(
        type=RecordType.BOUNCE,
        event_id="event-1",
        timestamp=1785585600.25,
        id="m1",
        sender="a@b.example",
        recipients=("joe@foo.example", "jim@foo.example"),
        response=Response(
            code=551, enhanced_code=(5, 4, 7), content="held too long", internal=True
        ),
        created=1785585000.0,
        queue="news:acme@foo.example!relay.example",
        site="ip-1->mx.relay.example#foo.example",
        site_name="mx.relay.example",
        routing_domain="relay.example",
        recipient_domain="foo.example",
        egress_source="ip-1",
        tenant="acme",
        campaign="news",
        num_attempts=3,
    )

    outcome = _read(format_line(record, node_id="n").decode()).outcome

    assert (outcome.event_id, outcome.type) == ("event-1", OutcomeType.BOUNCE)
    assert (outcome.recipient_domain, outcome.routing_domain) == ("foo.example", "relay.example")
    assert outcome.site_name == "mx.relay.example"
    assert outcome.path_name == "ip-1->mx.relay.example#foo.example"
    assert (outcome.tenant, outcome.campaign, outcome.egress_source) == ("acme", "news", "ip-1")
    assert outcome.internal
    assert outcome.event_time == datetime(2026, 8, 1, 12, 0, 0, 250_000, tzinfo=UTC)
    assert reply_text(outcome.reply) == "551 5.4.7 held too long"


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("nope", [("", "not JSON")]),
        ("[1]", [("", "not an object")]),
        ("[" * 100_000, [("", "not JSON")]),
        ({}, [("type", "is missing"), ("recipient", "is missing")]),
        ({"reply": "hello"}, [("reply", "reply code"), ("domain", "is missing"), ("source", "is")]),
        (_MINIMAL | {"domain": 5}, [("domain", "a text")]),
        (_MINIMAL | {"time": "noon"}, [("time", "2026-08-01T12:00:00Z")]),
        (_MINIMAL | {"time": 1e30}, [("time", "calendar")]),
        (_MINIMAL | {"mx": []}, [("mx", "list")]),
        (_MINIMAL | {"mx": [{}]}, [("mx", "a text")]),
        (_MINIMAL | {"source": "x" * 9000}, [("source", "at most")]),
        (_LOGGED | {"type": "Bouce"}, [("type", "did you mean Bounce?")]),
        (_LOGGED | {"recipient": []}, [("recipient", "empty")]),
        (_LOGGED | {"recipient": "joe"}, [("recipient", "someone@example.com")]),
        (_LOGGED | {"response": {"code": "x"}}, [("response", "code")]),
        (_LOGGED | {"response": {"enhanced_code": 5}}, [("response", "enhanced_code")]),
        (_LOGGED | {"num_attempts": -1}, [("num_attempts", "0 or more")]),
    ],
)
def test_everything_wrong_with_a_line_is_told(line, found):
    with pytest.raises(BadLine) as caught:
        _read(line)

    assert [mistake.field for mistake in caught.value.mistakes] == [field for field, _ in found]
    for mistake, (_, text) in zip(caught.value.mistakes, found, strict=True):
        assert text in mistake.message


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from([*_LOGGED, *_MINIMAL, "mx", "time"]), _json), st.booleans())
def test_any_object_is_read_or_refused(fields, is_logged):
    line = (_LOGGED if is_logged else _MINIMAL) | fields
    with contextlib.suppress(BadLine):
        read = _read(line)
        # What comes through can be sent as agents report it.
        assert read is None or from_outcome(to_outcome(read.outcome)) == read.outcome


def test_hostile_content_is_cut_and_made_of_characters():
    content = '"\\ud800' + "a" * 5_000_000 + '"'
    line = json.dumps(_LOGGED).replace('"[TS01] deferred"', content)

    outcome = _read(line).outcome

    assert len(outcome.reply.content) < 10_000
    assert outcome.reply.content.startswith("?a")


def test_files_are_read_line_by_line_plain_or_packed(tmp_path):
    lines = [json.dumps(_MINIMAL | {"time": 100}), "", json.dumps(_MINIMAL), '{"type":"Delayed"}']
    plain = tmp_path / "a.jsonl"
    plain.write_text("\ufeff" + "\n".join(lines))
    packed = tmp_path / "b.jsonl.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    files = OutcomeFiles([str(plain), str(packed)], time=_NOW)

    read = [line.outcome for line in files.read()]

    assert files.issues == []
    assert files.passed_over == 2
    assert len({outcome.event_id for outcome in read}) == len(read) == 4
    # A line without a time comes with the one before it.
    assert {outcome.event_time for outcome in read} == {datetime(1970, 1, 1, 0, 1, 40, tzinfo=UTC)}


@pytest.mark.parametrize(
    ("name", "content", "line", "text"),
    [
        ("a.jsonl", b'{"type": "Delayed"}\n\xff\n', 2, "not UTF-8"),
        ("a.jsonl", b"x" * (16 * 1024 * 1024 + 1), 1, "longer than 16 MiB"),
        ("a.jsonl.gz", b"no gzip at all", None, "cannot be read"),
        ("a.jsonl.gz", gzip.compress(b"{}" * 9999, mtime=0)[:-20], None, "cannot be read"),
        ("missing.jsonl", None, None, "No such file"),
    ],
)
def test_files_that_cannot_be_read_are_told(tmp_path, name, content, line, text):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    files = OutcomeFiles([str(path)], time=_NOW)

    assert list(files.read()) == []

    (issue,) = files.issues
    assert (issue.file, issue.line) == (str(path), line)
    assert text in issue.message


def test_mistakes_are_told_up_to_a_bound(tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_text("nope\n" * 10_000)
    files = OutcomeFiles([str(path), str(path)], time=_NOW)

    assert list(files.read()) == []

    assert len(files.issues) == MAX_MISTAKES + 1
    assert "the rest was not read" in files.issues[-1].message
