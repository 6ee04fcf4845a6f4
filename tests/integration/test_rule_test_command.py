"""penstock-server rules test: what rules would have done, by command."""

import asyncio
import gzip
import io
import json
import os
import sys
import tomllib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
import pytest

from agent.sink.dns_server import DnsServer
from policy_server.automation.outcomes import Outcome, OutcomeType, Reply
from policy_server.cli.main import run
from policy_server.rules.site import MxHost, Site
from policy_server.store.database import Database
from policy_server.store.outcomes import keep_outcomes
from policy_server.store.schema import upgrade
from policy_server.store.sites import StoredSite, save_sites
from tests.unit.policy_server.rules.shared_data import shared_path

_RULES = """
[provider."yahoo"]
match = [{MXSuffix = ".yahoodns.net"}]

[[provider."yahoo".automation]]
regex = '\\[TS0[0-9]\\]'
trigger = {Threshold = "2/hr"}
action = "Suspend"
duration = "1 hour"

[["default".automation]]
regex = "nobody says that"
action = "Suspend"
duration = "1 hour"
"""
_SITE = "(mta5|mta6).am0.yahoodns.net"
_CORPUS = tomllib.loads(
    (Path(__file__).parents[1] / "data" / "builtin_replies.toml").read_text(encoding="utf-8")
)
_START = datetime(2026, 8, 1, 12, tzinfo=UTC)


@pytest.fixture
def config(tmp_path):
    """Settings of a database that is not there yet."""
    path = tmp_path / "penstock-server.toml"
    path.write_text(f'[database]\nurl = "sqlite:///{tmp_path}/var/penstock.db"\n')
    return str(path)


@pytest.fixture
def database(config, tmp_path):
    database = Database(f"sqlite:///{tmp_path}/var/penstock.db")
    upgrade(database)
    yield database
    database.close()


@pytest.fixture
def rules(config, capsys):
    """Run a command of the group; return its answer, or what it printed."""

    def command(*arguments, status=0):
        capsys.readouterr()
        assert run(["rules", *map(str, arguments), "--config", config]) == status
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return json.loads(said.out) if "--json" in arguments else said

    return command


@pytest.fixture
def rule_file(tmp_path):
    path = tmp_path / "custom.toml"
    path.write_text(_RULES)
    return path


def _line(minutes=0.0, reply="421 4.7.0 [TS01] deferred", **fields):
    time = (_START + timedelta(minutes=minutes)).isoformat()
    known = {"reply": reply, "domain": "yahoo.com", "source": "ip-1", "site_name": _SITE}
    return known | {"time": time} | fields


@pytest.fixture
def replies(tmp_path):
    def write(*lines, name="replies.jsonl"):
        path = tmp_path / name
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        return path

    return write


def test_what_would_have_happened_is_told_and_nothing_is_there_afterwards(
    rules, rule_file, replies, tmp_path
):
    file = replies(
        _line(20),
        _line(0),
        _line(10),
        _line(30, "452 4.2.2 box 12345 is full"),
        _line(31, "452 4.2.2 box 98765 is full"),
        _line(32, "250 ok"),
    )

    answer = rules("test", rule_file, "--replies", file, "--json")

    (action,) = answer["actions"]
    assert (action["kind"], action["state"], action["count"]) == ("Suspend", "in_force", 3)
    assert (action["egress_source"], action["site_name"]) == ("ip-1", _SITE)
    assert action["first_match_time"] == _START.isoformat()
    assert action["expire_time"] == (_START + timedelta(minutes=80)).isoformat()
    assert action["evidence"][0]["reply"] == "421 4.7.0 [TS01] deferred"
    assert [(rule["match_count"], rule["action_count"]) for rule in answer["rules"]] == [
        (0, 0),
        (3, 1),
    ]
    (unmatched,) = answer["unmatched_replies"]
    assert (unmatched["count"], unmatched["code"], unmatched["enhanced_code"]) == (2, 452, "4.2.2")
    assert unmatched["text"] == "box … is full"
    assert (answer["outcome_count"], answer["unmatched_count"]) == (6, 3)
    assert (answer["warnings"], answer["errors"]) == ([], [])
    assert not (tmp_path / "var").exists()


def test_the_tables_for_people_fit_a_terminal(rules, rule_file, replies, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    file = replies(_line(0), _line(1), _line(2, "550 5.1.1 <someone@yahoo.com> unknown " * 5))

    said = rules("test", rule_file, "--replies", file)

    assert max(map(len, click.unstyle(said.out).splitlines())) <= 80
    assert "08-01 12:00:00" in said.out
    assert "rules that matched nothing" in said.out
    assert "1 actions would have begun; nothing is in force" in said.out


def test_mistakes_of_all_lines_are_told_at_once(rules, rule_file, replies):
    file = replies(_line(reply="hello"), _line(), {"type": "Bouce"}, [])

    answer = rules("test", rule_file, "--replies", file, "--json", status=1)

    assert "actions" not in answer
    assert [(error["line"], error["option"]) for error in answer["errors"]] == [
        (1, "reply"),
        (3, "recipient"),
        (3, "type"),
        (4, ""),
    ]
    assert answer["errors"][0]["file"] == str(file)
    assert "nothing was run" in rules("test", rule_file, "--replies", file, status=1).err


def test_wrong_rules_are_refused(rules, replies, tmp_path):
    bad = tmp_path / "bad.toml"
    bad.write_text('[["default".automation]]\nregex = "("\naction = "Suspend"\nduration = "1h"\n')

    answer = rules("test", bad, "--replies", replies(_line()), "--json", status=1)

    assert [error["code"] for error in answer["errors"]] == ["bad_regex"]


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(["--replies", "x.jsonl"], id="no rules"),
        pytest.param(["a.toml", "--replies", "x", "--since", "2026-08-01"], id="times of a file"),
        pytest.param(["a.toml", "--since", "yesterday"], id="no time"),
        pytest.param(["a.toml", "--mx", ":10"], id="no host"),
    ],
)
def test_wrong_usage(rules, arguments):
    rules("test", *arguments, status=2)


def test_lines_may_come_packed_and_by_standard_input(rules, rule_file, tmp_path, monkeypatch):
    packed = tmp_path / "replies.jsonl.gz"
    packed.write_bytes(gzip.compress(json.dumps(_line(0)).encode()))
    waiting = io.TextIOWrapper(io.BytesIO(json.dumps(_line(1)).encode()))
    monkeypatch.setattr(sys, "stdin", waiting)

    answer = rules("test", rule_file, "--replies", packed, "--replies", "-", "--json")

    assert answer["action_count"] == 1


def test_stored_outcomes_are_what_rules_are_tried_on_by_default(rules, rule_file, database):
    outcomes = [
        Outcome(
            event_id=f"e{minute}",
            event_time=_START + timedelta(minutes=minute),
            type=OutcomeType.TRANSIENT_FAILURE,
            recipient_domain="yahoo.com",
            routing_domain="yahoo.com",
            site_name=_SITE,
            egress_source="ip-1",
            reply=Reply(code=421, content="[TS03] deferred"),
        )
        for minute in range(1300)
    ]
    database.write_now(lambda connection: keep_outcomes(connection, outcomes))

    everything = rules("test", rule_file, "--json")
    some = rules(
        "test", rule_file, "--since", "2026-08-01T13:00", "--until", "2026-08-01T14:00", "--json"
    )

    assert (everything["outcome_count"], everything["action_count"]) == (1300, 1)
    assert everything["actions"][0]["count"] == 1300
    assert some["outcome_count"] == 60


def test_a_file_is_tried_on_top_of_the_rules_in_the_database(rules, rule_file, replies, tmp_path):
    base = tmp_path / "base.toml"
    base.write_text(
        '["default"]\nconnection_limit = 16\n[["default".automation]]\nregex = "TS01"\n'
        'action = {SetConfig = {name = "connection_limit", value = 1}}\nduration = "1h"\n'
    )
    rules("import", base)
    file = replies(_line(0), _line(1))

    alone = rules("test", rule_file, "--replies", file, "--json")
    both = rules("test", rule_file, "--with-rules", "--replies", file, "--json")
    present = rules("test", "--with-rules", "--replies", file, "--json")

    assert [action["kind"] for action in alone["actions"]] == ["Suspend"]
    assert {action["kind"] for action in both["actions"]} == {"Suspend", "SetConfig"}
    (lowered,) = present["actions"]
    assert (lowered["old_value"], lowered["new_value"]) == (16, 1)


def test_the_site_of_a_reply_comes_from_what_is_known_of_it(rules, rule_file, replies, database):
    hosts = (MxHost("mta5.am0.yahoodns.net", 1), MxHost("mta6.am0.yahoodns.net", 1))
    stored = StoredSite(
        site=Site(domain="known.example", site_name=_SITE, mx_hosts=hosts), expires_at=_START
    )
    database.write_now(lambda connection: save_sites(connection, [stored]))

    def sites_of(*arguments, **fields):
        line = _line(**fields)
        del line["site_name"]
        file = replies(line, line | fields)
        answer = rules("test", rule_file, "--replies", file, "--json", *arguments)
        return [action["site_name"] for action in answer["actions"]], answer["warnings"]

    named = ["mta5.am0.yahoodns.net", "mta6.am0.yahoodns.net"]
    assert sites_of(domain="known.example") == ([_SITE], [])
    assert sites_of(domain="new.example", mx=named) == ([_SITE], [])
    assert sites_of("--mx", named[0], "--mx", named[1], domain="new.example") == ([_SITE], [])
    none, (warning,) = sites_of(domain="new.example")
    assert none == []
    assert "--mx" in warning["message"]


async def test_the_dns_is_asked_only_if_it_may_be(rule_file, replies, tmp_path):
    """In a process of its own, as a command has a loop of its own."""
    zone = {"mx": {"new.example": [[10, "mta5.am0.yahoodns.net"], [10, "mta6.am0.yahoodns.net"]]}}
    line = {key: value for key, value in _line(domain="new.example").items() if key != "site_name"}
    file = replies(line, line)
    async with DnsServer(zone) as server:
        answers = []
        for arguments in ([], ["--dns"]):
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "policy_server.cli.main", "rules", "test"),
                *(str(rule_file), "--replies", str(file), "--json", *arguments),
                env={
                    **os.environ,
                    "PENSTOCK_DATABASE_URL": f"sqlite:///{tmp_path}/none.db",
                    "PENSTOCK_DNS_NAMESERVERS": server.address,
                },
                stdout=asyncio.subprocess.PIPE,
            )
            async with asyncio.timeout(60):
                out, _ = await process.communicate()
            answers.append(json.loads(out))

    without, with_dns = answers
    assert without["action_count"] == 0
    assert [action["site_name"] for action in with_dns["actions"]] == [_SITE]


def test_a_trap_is_warned_of_when_it_is_tried_imported_and_checked(
    rules, replies, tmp_path, config, capsys
):
    trap = tmp_path / "trap.toml"
    trap.write_text(
        '["default"]\nconnection_limit = 3\n\n[["default".automation]]\n'
        'regex = "bounced with reason"\naction = "Bounce"\nmatch_internal = true\n'
        'duration = "1h"\n'
    )

    tried = rules("test", trap, "--replies", replies(_line()), "--json")
    imported = rules("import", trap, "--json")
    assert run(["check", "--config", config]) == 0

    for answer in (tried, imported):
        (warning,) = answer["warnings"]
        assert (warning["code"], warning["line"], warning["block"]) == ("trap", 5, "default")
        assert "551 5.7.1 Administrator bounced with reason: trap: default" in warning["message"]
    assert "Administrator bounced" in capsys.readouterr().err


def _corpus_lines():
    for number, entry in enumerate((*_CORPUS["reply"], *_CORPUS["quiet"])):
        enhanced = ".".join(map(str, entry.get("enhanced_code", ())))
        reply = " ".join(filter(None, (str(entry["code"]), enhanced, entry["content"])))
        yield _line(number, reply, site_name=f"mx{number}.unknown.example")


def test_the_built_in_rules_over_the_corpus(rules, replies):
    """At sites that belong to no provider only the default's rules can act, and do."""
    answer = rules("test", "--builtin", "--replies", replies(*_corpus_lines()), "--json")

    matched = [rule for rule in answer["rules"] if rule["match_count"]]
    assert matched
    assert {rule["block"] for rule in matched} == {"default"}
    # Each rule needs several matches on one path, and each reply has a path of its own.
    assert answer["action_count"] == 0
    assert len(answer["warnings"]) == len(matched)


def test_the_rules_that_kumomta_ships_over_the_corpus(rules, replies):
    files = [shared_path(f"kumomta/{name}.toml") for name in ("shaping", "community-shaping")]
    yahoo = [
        line | {"site_name": _SITE, "time": _START.isoformat()}
        for line, entry in zip(_corpus_lines(), _CORPUS["reply"], strict=False)
        if entry["provider"] == "yahoo"
    ]

    answer = rules("test", *files, "--replies", replies(*yahoo), "--json")

    assert answer["outcome_count"] == len(yahoo) > 5
    suspensions = [action for action in answer["actions"] if action["kind"] == "Suspend"]
    assert {action["site_name"] for action in suspensions} == {_SITE}
    used = {rule["layer"] for rule in answer["rules"] if rule["match_count"]}
    assert used == {"shaping", "community-shaping"}
    assert sum(rule["match_count"] for rule in answer["rules"]) >= len(yahoo) // 2
