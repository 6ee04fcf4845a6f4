from datetime import timedelta
from pathlib import Path

import pytest

from agent.delivery.dsn import TellSender
from agent.errors import SettingsError
from agent.setting_values import Address, SpaceFloor
from agent.settings import Settings, load_settings

FULL = """
[agent]
name = "mta-1"
data_dir = "var/agent"
[policy]
server = "127.0.0.1:7350"
[listen]
smtp = "127.0.0.1:7525"
grpc = "[::1]:7360"
http = "127.0.0.1:7361"
relay_from = ["127.0.0.0/8", "::1"]
max_message_size = "5 MiB"
[dns]
nameservers = ["127.0.0.1:5353"]
[spool]
min_free_space = "2 GiB"
[[source]]
name = "ip-1"
source_address = "127.0.0.2"
ehlo_domain = "mta1.example.com"
[[source]]
name = "ip-2"
[[pool]]
name = "default"
sources = [{ name = "ip-1", weight = 2 }, { name = "ip-2" }]
[queue]
egress_pool = "default"
retry_interval = "20m"
max_age = "7d"
[queue."Example.com"]
retry_interval = "1h 30m"
"""


@pytest.fixture
def load(tmp_path: Path):
    """Load settings from a text."""

    def load_text(text: str, environ: dict[str, str] | None = None) -> Settings:
        path = tmp_path / "penstock-agent.toml"
        path.write_text(text)
        return load_settings(path, environ or {})

    return load_text


def mistakes_of(load, text: str, environ: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load(text, environ)
    return [mistake.rpartition("penstock-agent.toml:")[2] for mistake in caught.value.mistakes]


def test_a_full_file_is_read_into_values(load):
    settings = load(FULL)

    assert settings.listen.smtp == Address("127.0.0.1", 7525)
    assert str(settings.listen.grpc) == "[::1]:7360"
    assert settings.listen.max_message_size == 5 * 1024 * 1024
    assert settings.dns.nameservers == (Address("127.0.0.1", 5353),)
    assert settings.spool.min_free_space == SpaceFloor(size=2 * 1024**3)
    assert settings.sources["ip-1"].source_address == "127.0.0.2"
    assert settings.pools["default"].weights == {"ip-1": 2, "ip-2": 1}
    assert settings.spool_dir == Path("var/agent/spool")
    assert [str(network) for network in settings.relay_networks] == ["127.0.0.0/8", "::1/128"]


def test_a_queue_without_settings_of_its_own_has_the_defaults(load):
    settings = load(FULL)

    assert settings.queue_for("example.com").retry_interval == timedelta(minutes=90)
    assert settings.queue_for("example.com").max_age == timedelta(days=7)
    assert settings.queue_for("example.net") == settings.queue


def test_defaults_need_no_file():
    settings = load_settings(None, {})

    assert str(settings.listen.smtp) == "127.0.0.1:7525"
    assert settings.sources["default"].source_address is None
    assert settings.pools["default"].weights == {"default": 1}
    assert settings.spool.min_free_space == SpaceFloor(share=0.1)
    assert settings.policy.max_stale == timedelta(hours=24)
    assert settings.listen.max_message_size == 20 * 1024 * 1024


def test_sources_without_a_pool_share_the_default_pool(load):
    settings = load('[[source]]\nname = "a"\n[[source]]\nname = "b"\n')

    assert settings.pools["default"].weights == {"a": 1, "b": 1}


def test_the_environment_overrides_the_file(load):
    environ = {
        "PENSTOCK_AGENT_NAME": "mta-9",
        "PENSTOCK_LISTEN_SMTP": "127.0.0.1:0",
        "PENSTOCK_LISTEN_RELAY_FROM": "10.0.0.0/8, ::1",
        "PENSTOCK_LISTEN_MAX_RECIPIENTS": "7",
        "PENSTOCK_QUEUE_RETRY_INTERVAL": "5m",
        "PENSTOCK_POOL": '[{"name": "default", "sources": [{"name": "ip-2"}]}]',
        "PENSTOCK_SERVER_GRPC_LISTEN": "someone else's",
        "PENSTOCK_AGENT_PORT": "tcp://made.by.a.platform",
    }

    settings = load(FULL, environ)

    assert settings.agent.name == "mta-9"
    assert settings.listen.smtp.port == 0
    assert settings.listen.relay_from == ("10.0.0.0/8", "::1/128")
    assert settings.listen.max_recipients == 7
    assert settings.queue.retry_interval == timedelta(minutes=5)
    assert settings.pools["default"].weights == {"ip-2": 1}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(
            '\n[listen]\nsmpt = "127.0.0.1:1"\n',
            '3: listen.smpt: unknown key; did you mean "smtp"?',
            id="misspelt key",
        ),
        pytest.param(
            "[lisen]\n", '1: lisen: unknown key; did you mean "listen"?', id="misspelt section"
        ),
        pytest.param(
            '[queue]\n[queue."example.com"]\nretry_intervall = "1m"\n',
            '3: queue."example.com".retry_intervall: unknown key; did you mean "retry_interval"?',
            id="misspelt key of one domain",
        ),
        pytest.param(
            '[[source]]\nname = "a"\n[[source]]\nname = "b"\nehlo = "x"\n',
            "5: source[2].ehlo: unknown key; known: name, source_address, ehlo_domain",
            id="key far from any",
        ),
        pytest.param("[queues]\n", 'queues: unknown key; did you mean "queue"?', id="inner name"),
        pytest.param(
            '[queue]\nmax_age = "7 fortnights"\n',
            "2: queue.max_age: '7 fortnights' is no duration up to 10 years; "
            'write seconds, or a text such as "90s", "20m", "4h" or "7d"',
            id="bad duration",
        ),
        pytest.param(
            '[queue]\nmax_age = "0s"\n', "2: queue.max_age: must be longer than zero", id="zero"
        ),
        pytest.param(
            '[listen]\nsmtp = "127.0.0.1"\n',
            "2: listen.smtp: '127.0.0.1' is no address; "
            'write "127.0.0.1:7525", or "[::1]:7525" for IPv6',
            id="no port",
        ),
        pytest.param(
            '[[source]]\nname = "a"\nsource_address = "127.0.0.300"\n',
            "3: source[1].source_address: '127.0.0.300' is no IP address; "
            'write one of this host, such as "192.0.2.1"',
            id="bad source address",
        ),
        pytest.param(
            '[[source]]\nname = "ip-1"\n'
            '[[pool]]\nname = "default"\nsources = [{ name = "ip-2" }]\n',
            'pool "default": unknown source "ip-2"; did you mean "ip-1"?',
            id="pool of an unknown source",
        ),
        pytest.param(
            '[[source]]\nname = "a"\n[[source]]\nname = "a"\n',
            'source "a" is there more than once; names must differ',
            id="source twice",
        ),
        pytest.param(
            '[[pool]]\nname = "default"\nsources = [{ name = "default", weight = -1 }]\n',
            "3: pool[1].sources[1].weight: input should be greater than or equal to 0 (given: -1)",
            id="negative weight",
        ),
        pytest.param(
            '[[pool]]\nname = "default"\nsources = [{ name = "default", weight = 0 }]\n',
            'pool "default": give at least one source a weight',
            id="no weight at all",
        ),
        pytest.param(
            '[queue."example.com"]\negress_pool = "defalt"\n',
            'queue."example.com": unknown egress_pool "defalt"; did you mean "default"?',
            id="queue of an unknown pool",
        ),
        pytest.param(
            '[spool]\nmin_free_space = "110%"\n',
            '2: spool.min_free_space: \'110%\' is no share; write "0%" up to "99%"',
            id="more than all space",
        ),
        pytest.param(
            '[listen]\nmax_message_size = "20 MB"\n',
            "2: listen.max_message_size: '20 MB' is no size; "
            'write bytes, or a text such as "20 MiB"',
            id="bad size",
        ),
        pytest.param(
            '[listen]\nrelay_from = ["10.0.0.1/8"]\n',
            "2: listen.relay_from[1]: '10.0.0.1/8' is no network (10.0.0.1/8 has host bits set); "
            'write "192.0.2.0/24" or "::1"',
            id="network with host bits",
        ),
    ],
)
def test_a_mistake_is_told_with_its_place_and_remedy(load, text, expected):
    found = mistakes_of(load, text)

    assert [mistake.removeprefix(" ") for mistake in found] == [expected]


def test_all_mistakes_are_told_at_once_in_the_order_of_the_file(load):
    text = '[listen]\nsmpt = "x"\nmax_recipients = 0\n[queue]\nmax_age = "x"\n'

    found = mistakes_of(load, text, {"PENSTOCK_LISTEN_SMPT": "x", "PENSTOCK_SOURCE": "{"})

    places = [mistake.split(": ")[:2] for mistake in found[:3]]
    assert places == [["2", "listen.smpt"], ["3", "listen.max_recipients"], ["5", "queue.max_age"]]
    assert found[3] == 'PENSTOCK_LISTEN_SMPT: unknown setting; did you mean "smtp"?'
    assert found[4].startswith("PENSTOCK_SOURCE: no valid JSON")


def test_wrong_references_are_told_with_every_other_mistake(load):
    text = """
    [listen]
    smpt = "x"
    [[source]]
    name = "ip-1"
    [[source]]
    name = "ip-1"
    [[pool]]
    name = "default"
    sources = [{ name = "ip-2" }]
    [[pool]]
    name = "idle"
    sources = [{ name = "ip-1", weight = 0 }]
    [queue]
    egress_pool = "defalt"
    [queue."example.com"]
    retry_interval = "1m"
    [queue."example.net"]
    egress_pool = "idel"
    """

    found = [mistake.strip() for mistake in mistakes_of(load, text)]

    assert found == [
        '3: listen.smpt: unknown key; did you mean "smtp"?',
        'source "ip-1" is there more than once; names must differ',
        'pool "default": unknown source "ip-2"; did you mean "ip-1"?',
        'pool "idle": give at least one source a weight',
        'queue: unknown egress_pool "defalt"; did you mean "default"?',
        'queue."example.net": unknown egress_pool "idel"; did you mean "idle"?',
    ]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param('[[source]]\nnme = "a"\n[[pool]]\nname = "default"\n'
                     'sources = [{ name = "a" }]\n', id="source without a name"),
        pytest.param('[[pool]]\nname = 5\nsources = []\n', id="pool without a name"),
        pytest.param('[[pool]]\nname = "default"\nsources = [{ nme = "default" }]\n',
                     id="member without a name"),
        pytest.param('[[pool]]\nname = "default"\n', id="pool without sources"),
    ],
)  # fmt: skip
def test_a_name_that_cannot_be_read_leads_to_no_second_mistake(load, text):
    assert not any("unknown source" in one or "weight" in one for one in mistakes_of(load, text))


def test_a_mistake_of_the_defaults_is_told_once(load):
    text = (
        '[queue]\nretry_interval = "x"\n'
        '[queue."a.example"]\nmax_age = "1d"\n[queue."b.example"]\nmax_age = "y"\n'
    )

    places = [mistake.split(": ")[:2] for mistake in mistakes_of(load, text)]

    assert places == [["2", "queue.retry_interval"], ["6", 'queue."b.example".max_age']]


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        pytest.param("true", TellSender.ALWAYS, id="on"),
        pytest.param("false", TellSender.NEVER, id="off"),
        pytest.param('"failure"', TellSender.FAILURE, id="permanent failures"),
        pytest.param('"Expiry"', TellSender.EXPIRY, id="too old"),
    ],
)
def test_a_queue_says_of_what_senders_are_told(load, written, meant):
    settings = load(f'[queue]\nmax_age = "1d"\n[queue."a.example"]\ndsn = {written}\n')

    assert settings.queue_for("a.example").dsn is meant
    assert settings.queue_for("b.example").dsn is TellSender.ALWAYS


def test_senders_are_told_of_nothing_by_the_environment(load):
    assert load("", {"PENSTOCK_QUEUE_DSN": "false"}).queue.dsn is TellSender.NEVER


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param('dsn = "maybe"', "'maybe' is no choice; write true, false,", id="choice"),
        pytest.param("dsn = 1", "1 is no choice; write true, false,", id="number"),
        pytest.param(
            'dsn_from = "postmaster"',
            """'postmaster': recipient address: needs a local part, '@' and a domain; """
            'write one such as "mailer-daemon@example.com"',
            id="address",
        ),
    ],
)
def test_what_a_queue_says_wrongly_of_notices_is_a_mistake(load, text, expected):
    (mistake,) = mistakes_of(load, f"[queue]\n{text}\n")

    assert expected in mistake


@pytest.mark.parametrize(
    ("given", "other"),
    [("tls_certificate", "tls_private_key"), ("tls_private_key", "tls_certificate")],
)
def test_a_certificate_and_its_key_go_together(load, given, other):
    assert mistakes_of(load, f'[listen]\n{given} = "x.pem"\n') == [
        f"1: listen: {given} needs {other} too: the PEM files of a certificate and of its key"
    ]
    both = load('[listen]\ntls_certificate = "c.pem"\ntls_private_key = "k.pem"\n').listen
    assert both.certificate_files is not None
    assert both.certificate_files.private_key == Path("k.pem")
    assert load("").listen.certificate_files is None


def test_a_source_without_an_ehlo_name_goes_by_its_pools(load):
    settings = load(FULL)
    queue = settings.queue

    named = [source for source in settings.source if source.ehlo_domain]
    assert settings.ehlo_name(named[0].name, queue) == named[0].ehlo_domain
    assert settings.ehlo_name("", queue) in {source.ehlo_domain for source in named}
    assert load("").ehlo_name("", load("").queue) == ""


def test_a_queue_is_named_as_recipients_are(load):
    settings = load('[queue."Bücher.example."]\nmax_age = "1d"\n')

    assert settings.queue_for("xn--bcher-kva.example").max_age == timedelta(days=1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(
            '[queue."a.example"]\n[queue."A.example"]\n',
            'queue."A.example": the same domain as "a.example"; keep one',
            id="case",
        ),
        pytest.param(
            '[queue."xn--bcher-kva.example"]\n[queue."bücher.example"]\n',
            'queue."bücher.example": the same domain as "xn--bcher-kva.example"; keep one',
            id="A-label",
        ),
        pytest.param(
            '[queue."a example"]\n',
            'queue."a example": no valid domain; write one such as "example.com"',
            id="no domain",
        ),
    ],
)
def test_a_queue_of_no_domain_of_its_own_is_a_mistake(load, text, expected):
    assert [mistake.strip() for mistake in mistakes_of(load, text)] == [expected]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param(b"[listen", "no valid TOML", id="broken"),
        pytest.param(b"a = '\xff'", "no valid TOML", id="not UTF-8"),
        pytest.param(None, "can't be read", id="missing"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_mistake(tmp_path, content, expected):
    path = tmp_path / "agent.toml"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(SettingsError, match=expected):
        load_settings(path, {})


@pytest.mark.parametrize("section", ["agent", "listen", "source", "pool", "queue", "dns"])
def test_a_section_of_the_wrong_shape_is_a_mistake_and_no_crash(load, section):
    assert mistakes_of(load, f"{section} = 5\n")


def test_settings_cannot_be_changed(load):
    settings = load(FULL)

    with pytest.raises(ValueError, match="frozen"):
        settings.listen.max_recipients = 5
