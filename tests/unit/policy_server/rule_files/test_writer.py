"""Export: what is written reads back as the same layer, and what can't be written is refused."""

import json
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given

from policy_server.rule_files.reader import FileFormat, read_content, read_rule_file
from policy_server.rule_files.writer import write_rules
from policy_server.rules.layers import AutomationDraft, BlockDraft, LayerDraft, Scope
from policy_server.rules.parse import parse_layer
from tests.unit.policy_server.rules.layer_drafts import layer_drafts, without_places

_DATA = Path(__file__).parents[3] / "data"
_EXAMPLES = Path(__file__).parents[4] / "examples"
_BUILTIN = Path(__file__).parents[4] / "policy_server" / "builtin" / "builtin.toml"


def _read(text, format=FileFormat.TOML):
    draft, issues = read_content(text.encode(), name="made", file="made", format=format)
    assert issues == ()
    return draft


def _write(layer, format=FileFormat.TOML):
    text, obstacles = write_rules(layer, format)
    assert obstacles == ()
    return text


@given(layer_drafts)
def test_a_layer_comes_back_in_meaning_order_and_comments(layer):
    assert without_places(_read(_write(layer))) == without_places(layer)


@given(layer_drafts)
def test_what_is_written_is_written_the_same_again(layer):
    text = _write(layer)

    assert _write(_read(text)) == text


@given(layer_drafts)
def test_a_layer_comes_back_from_json_in_meaning(layer):
    again = _read(_write(layer, FileFormat.JSON), FileFormat.JSON)

    # JSON has one table for all providers, and none for a block that says nothing.
    def meant(draft):
        blocks = parse_layer(draft)[0].blocks
        return sorted((repr(block) for block in blocks if _says_anything(block)), key=str)

    assert meant(again) == meant(layer)


def _says_anything(block):
    return block.options or block.matches or block.automation or block.replace_base


@pytest.mark.parametrize(
    "path",
    [
        _DATA / "good_rules/comments.toml",
        _EXAMPLES / "demo/rules.toml",
        _EXAMPLES / "tour/rules.toml",
        _BUILTIN,
    ],
    ids=lambda path: f"{path.parent.name}/{path.name}",
)
def test_real_files_come_back(path):
    layer, _ = read_rule_file(str(path))

    again = without_places(_read(_write(layer)))
    assert again == replace(without_places(layer), name="made")


def test_comments_are_written_where_they_were():
    """The file is as this program writes files, so it must come back letter for letter."""
    text = (_DATA / "good_rules/comments.toml").read_text()

    assert _write(_read(text)) == text


def test_comments_without_a_place_of_their_own_keep_their_order():
    text = (
        '# file\n\n# of block\n["a.example"] # on its line\n# of a flag\nmx_rollup = false # why\n'
        "# of an option\nskip_hosts = [ # in a list\n  # of an entry\n  '10.0.0.1',\n]\n"
        '[["a.example".automation]]\nregex = [\n  # one\n  "x", # two\n]\naction = "Suspend"\n'
        'duration = "1h"\n# end\n'
    )

    layer = _read(text)

    (block,) = layer.blocks
    assert layer.description == "file"
    assert block.comment == "of block\non its line\nof a flag\nwhy\n"
    assert block.option_comments == {"skip_hosts": "of an option\nin a list\nof an entry\n"}
    assert block.automation[0].comment == "one\ntwo\nend\n"


def test_json_has_the_layout_of_rule_files():
    layer = _read(
        '["default"]\nmax_ready = 5\nunset = ["max_message_rate"]\n'
        '[provider."p"]\nmatch = [{MXSuffix=".a"}]\n["a.example".sources."ip-1"]\nsmtp_port = 26\n'
    )

    assert json.loads(_write(layer, FileFormat.JSON)) == {
        "default": {"max_ready": 5, "unset": ["max_message_rate"]},
        "provider": {"p": {"match": [{"MXSuffix": ".a"}]}},
        "a.example": {"sources": {"ip-1": {"smtp_port": 26}}},
    }


def _domain(name="a.example", **more):
    return BlockDraft(scope=Scope.DOMAIN, name=name, **more)


@pytest.mark.parametrize(
    ("blocks", "code", "words"),
    [
        pytest.param(
            (_domain(options={"tls_private_key": {"key_data": "hunter2"}}),),
            "secret",
            "never exported",
            id="a secret itself",
        ),
        pytest.param(
            (_domain(options={"smtp_auth_plain_password": 5}),), "bad_value", "path", id="no value"
        ),
        pytest.param(
            (_domain(), _domain(mx_rollup=False)), "not_exportable", "twice", id="two scopes"
        ),
        pytest.param((_domain(), _domain("A.Example")), "duplicate_block", "already", id="twice"),
        pytest.param(
            (_domain("default", mx_rollup=False),), "not_exportable", "domain", id="reserved name"
        ),
        pytest.param(
            (_domain(options={"ehlo_domain": "\ud800"}),), "not_exportable", "surrogate", id="text"
        ),
        pytest.param(
            (_domain(automation=(AutomationDraft(regexes=("(",), actions=("Suspend",)),)),),
            "bad_regex",
            "compile",
            id="a rule that is wrong",
        ),
    ],
)
def test_what_no_file_can_say_is_refused(blocks, code, words):
    text, obstacles = write_rules(LayerDraft(name="made", blocks=blocks), FileFormat.TOML)

    assert text == ""
    assert code in [issue.code for issue in obstacles]
    assert any(words in issue.message for issue in obstacles)
    assert "hunter2" not in str(obstacles)


def test_a_comment_written_in_sql_can_not_break_the_file():
    block = _domain(comment="first\rline\n\x00 max_ready = 5", options={"max_ready": 3})

    text = _write(LayerDraft(name="made", blocks=(block,), description="a\nmax_ready = 9"))

    assert tomllib.loads(text) == {"a.example": {"max_ready": 3}}
