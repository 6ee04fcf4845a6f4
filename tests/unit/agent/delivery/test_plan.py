"""Connection plans, numbers of connections, TLS steps and the wire form of messages."""

import random
import re
from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.delivery.connections import wanted_connections
from agent.delivery.envelope import MailCommand, is_sendable, mail_command, wire_form
from agent.delivery.plan import Host, HostFilter, NoWay, make_plan, parse_networks
from agent.delivery.record import Response
from agent.delivery.tls import Handshake, Memory, TlsMode, TlsStep, may_authenticate, next_tls_step

HOSTS = [
    Host(name="b", preference=20, addresses=("192.0.2.3",)),
    Host(name="a1", preference=10, addresses=("192.0.2.1", "2001:db8::1")),
    Host(name="a2", preference=10, addresses=("192.0.2.2",)),
]


def test_preferences_ascend_and_are_shuffled_inside() -> None:
    plans = {
        tuple(each.address for each in make_plan(HOSTS, HostFilter(), random.Random(n).shuffle))
        for n in range(40)
    }

    assert len(plans) == 6
    assert all(plan[-1] == "192.0.2.3" for plan in plans)


@pytest.mark.parametrize(
    ("hosts", "host_filter", "code"),
    [
        ([Host(name=".", preference=0, addresses=())], HostFilter(), 556),
        ([Host(name="a", preference=0, addresses=())], HostFilter(), 451),
        (HOSTS, HostFilter(prohibited=parse_networks(["192.0.2.3"])), 550),
        (HOSTS, HostFilter(skipped=parse_networks(["0.0.0.0/0", "::/0"])), 451),
        pytest.param(
            HOSTS,
            HostFilter(prohibited=parse_networks(["192.0.2.3"]), skipped=parse_networks(["::/0"])),
            550,
            id="prohibited comes before skipped",
        ),
        pytest.param(
            [Host(name="a", preference=0, addresses=("::ffff:127.0.0.1",))],
            HostFilter(prohibited=(ip_network("127.0.0.0/8"),)),
            550,
            id="a mapped address does not hide a prohibited one",
        ),
    ],
)
def test_why_there_is_no_way(hosts, host_filter, code: int) -> None:
    plan = make_plan(hosts, host_filter, random.Random(1).shuffle)

    assert isinstance(plan, NoWay)
    assert plan.response.code == code
    assert plan.response.internal


def test_a_source_reaches_its_own_address_family() -> None:
    plan = make_plan(HOSTS, HostFilter(source_address="192.0.2.99"), random.Random(1).shuffle)

    assert "2001:db8::1" not in {each.address for each in plan}


@given(queued=st.integers(0, 5000), limit=st.integers(1, 2000))
def test_wanted_connections_are_within_the_limit_and_the_mail(queued: int, limit: int) -> None:
    wanted = wanted_connections(queued, limit)

    assert 0 <= wanted <= min(queued, limit)
    assert wanted >= min(queued, 1)
    assert wanted <= wanted_connections(queued + 1, limit)


@pytest.mark.parametrize("mode", [TlsMode.REQUIRED, TlsMode.REQUIRED_INSECURE])
@pytest.mark.parametrize("handshake", list(Handshake))
@pytest.mark.parametrize("offered", [True, False])
@pytest.mark.parametrize("is_broken", [True, False])
@pytest.mark.parametrize("may_reconnect", [True, False])
def test_required_tls_never_goes_on_in_the_clear(
    mode, handshake, offered: bool, is_broken: bool, may_reconnect: bool
) -> None:
    memory = Memory(is_broken=is_broken, may_reconnect=may_reconnect)

    step = next_tls_step(mode, offered=offered, handshake=handshake, memory=memory)

    assert step not in (TlsStep.CLEAR, TlsStep.CLEAR_AGAIN)


def test_remembered_broken_tls_makes_opportunistic_modes_skip_it() -> None:
    step = next_tls_step(
        TlsMode.OPPORTUNISTIC,
        offered=True,
        handshake=Handshake.NOT_TRIED,
        memory=Memory(is_broken=True),
    )

    assert step is TlsStep.CLEAR


@pytest.mark.parametrize(
    ("encrypted", "verified", "clear", "unverified", "allowed"),
    [
        (False, False, False, True, False),
        (False, False, True, False, True),
        (True, False, True, False, False),
        (True, False, False, True, True),
        (True, True, False, False, True),
    ],
)
def test_who_may_authenticate(encrypted, verified, clear, unverified, allowed) -> None:
    got = may_authenticate(
        is_encrypted=encrypted,
        is_verified=verified,
        allow_clear=clear,
        allow_unverified=unverified,
    )

    assert got is allowed


@given(st.binary() | st.text("ab.\r\n").map(str.encode))
def test_the_wire_form_ends_once_and_has_no_bare_line_end(body: bytes) -> None:
    wire = wire_form(body)

    assert wire.endswith(b".\r\n")
    assert wire.count(b"\n") == wire.count(b"\r") == wire.count(b"\r\n")
    assert (b"\r\n" + wire).count(b"\r\n.\r\n") == 1
    whole = body if not body or body.endswith((b"\n", b"\r")) else body + b"\r\n"
    expected = re.sub(rb"\r\n|\r|\n", b"\r\n", whole)
    unstuffed = b"\r\n".join(
        line[1:] if line.startswith(b".") else line for line in wire[:-3].split(b"\r\n")
    )
    assert unstuffed == expected


@pytest.mark.parametrize(
    ("sender", "is_8bit", "offered", "expected"),
    [
        ("a@b", False, (), ()),
        ("a@b", True, ("8bitmime",), (b"BODY=8BITMIME",)),
        ("a@b", True, (), (5, 6, 3)),
        ("ä@b", False, ("smtputf8",), (b"SMTPUTF8",)),
        ("ä@b", False, ("8bitmime",), (5, 6, 7)),
    ],
)
def test_what_the_peer_must_offer(sender: str, is_8bit: bool, offered, expected) -> None:
    command = mail_command(sender, ("c@d",), is_8bit=is_8bit, offered=offered, force=False)

    if isinstance(command, MailCommand):
        assert command.parameters == expected
    else:
        assert isinstance(command, Response)
        assert command.enhanced_code == expected


@pytest.mark.parametrize(
    ("address", "sendable"),
    [
        ("a@b.example", True),
        ('"a b"@b.example', True),
        ('"a>b"@b.example', True),
        ("a@b.example>\r\nRCPT TO:<c@d", False),
        ("a b@c", False),
        ("a\x00@c", False),
    ],
)
def test_addresses_that_would_break_a_command_are_not_sent(address: str, sendable: bool) -> None:
    assert is_sendable(address) is sendable
