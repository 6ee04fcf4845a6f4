import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy_server.rule_files import reader
from policy_server.rule_files.json_lines import locate_json
from policy_server.rule_files.reader import read_rule_file
from policy_server.rule_files.toml_lines import locate_toml
from policy_server.rules.issues import describe_issue, issue_json
from policy_server.rules.layers import Issue
from policy_server.rules.parse import parse_layer

_DATA = Path(__file__).parents[3] / "data"
_BAD = sorted(path for path in (_DATA / "bad_rules").iterdir() if path.suffix != ".txt")


def _find_issues(path: Path) -> list[Issue]:
    draft, issues = read_rule_file(str(path))
    return [*issues, *parse_layer(draft)[1]]


@pytest.mark.parametrize("path", _BAD, ids=lambda path: path.name)
def test_bad_file_gets_the_messages_beside_it(path):
    """The messages stand in FILE.txt, one a line."""
    issues = _find_issues(path)

    said = "".join(f"{describe_issue(issue)}\n" for issue in issues)
    assert said.replace(f"{path.parent}{os.sep}", "") == Path(f"{path}.txt").read_text()
    assert all(issue.severity == "error" for issue in issues)
    json.dumps([issue_json(issue) for issue in issues])


@pytest.mark.parametrize(
    ("name", "line", "block", "option", "value"),
    [
        ("misspelt_option.toml", 3, "default", "max_mesage_rate", "100/s"),
        ("bad_rate.toml", 5, '"foo.com"', "max_message_rate", "100/foo"),
        ("single_label_domain.toml", 1, '"localhost"', "", "localhost"),
        ("wrong_action.toml", 3, '"foo.com"', "action", "Suspnd"),
        ("broken_toml.toml", 3, "", "", None),
    ],
)
def test_issue_names_its_place_and_value(name, line, block, option, value):
    first = issue_json(_find_issues(_DATA / "bad_rules" / name)[0])

    assert (first["line"], first["block"], first["option"], first["value"]) == (
        line,
        block,
        option,
        value,
    )
    assert first["file"].endswith(name)


def test_good_file_has_no_issues():
    assert _find_issues(_DATA / "good_rules/every_spelling.toml") == []


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("deep.toml", b"x = " + b"[" * 100_000, "too_deep"),
        ("deep.json", b"[" * 100_000, "too_deep"),
        ("nested.json", b'{"default":' * 50 + b"1" + b"}" * 50, "too_deep"),
        ("number.toml", b"x = " + b"9" * 5000, "broken_toml"),
        ("number.json", b'{"x": ' + b"9" * 5000 + b"}", "broken_json"),
        ("nan.json", b'{"default": {"idle_timeout": NaN}}', "broken_json"),
        ("surrogate.json", b'{"foo\\ud800.example": {}}', "broken_json"),
        ("list.json", b"[]", "not_a_table"),
        ("text.json", b'"default"', "not_a_table"),
        ("binary.toml", b"\xff\xfe\x00", "not_utf8"),
        ("empty.json", b"", "broken_json"),
        ("control.toml", b'x = "a\x00b"', "broken_toml"),
    ],
)
def test_file_that_is_no_document_is_an_issue(tmp_path, name, content, code):
    path = tmp_path / name
    path.write_bytes(content)

    issues = _find_issues(path)

    assert [issue.code for issue in issues] == [code]


def test_file_that_is_not_there_is_an_issue(tmp_path):
    (issue,) = _find_issues(tmp_path / "absent.toml")

    assert issue.code == "unreadable_file"


def test_file_that_is_too_large_is_an_issue(tmp_path):
    path = tmp_path / "large.toml"
    with path.open("wb") as file:
        file.truncate(reader.MAX_FILE_SIZE + 1)

    (issue,) = _find_issues(path)

    assert issue.code == "file_too_large"


def test_layer_is_named_by_the_stem_and_reads_marks_and_line_ends_of_other_systems(tmp_path):
    path = tmp_path / "own.rules.toml"
    path.write_bytes(b'\xef\xbb\xbf["default"]\r\nmax_ready = 5\r\nmax_redy = 5\r\n')

    draft, _ = read_rule_file(str(path))

    assert (draft.name, draft.file) == ("own.rules", str(path))
    assert draft.blocks[0].option_lines == {"max_ready": 2, "max_redy": 3}


def test_json_and_toml_give_the_same_layer(tmp_path):
    toml = tmp_path / "a.toml"
    toml.write_text(
        '["default"]\nmax_ready = 5\n[provider.p]\nmatch=[{MXSuffix=".a"}]\n'
        '["foo.example".sources.ip-1]\nsmtp_port = 26\n'
    )
    as_json = tmp_path / "a.json"
    as_json.write_text(
        json.dumps(
            {
                "default": {"max_ready": 5},
                "provider": {"p": {"match": [{"MXSuffix": ".a"}]}},
                "foo.example": {"sources": {"ip-1": {"smtp_port": 26}}},
            }
        )
    )

    layers = [parse_layer(read_rule_file(str(path))[0])[0] for path in (toml, as_json)]

    assert layers[0] == layers[1]


def test_null_in_json_unsets(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"default": {"max_message_rate": null}}')

    draft, issues = read_rule_file(str(path))

    assert not issues
    assert draft.blocks[0].options == {"max_message_rate": None}


_TOML = '''# a comment = 1
["default"] # another [comment]
connection_limit = 10
"max_ready"=5
regexes = [
  "a # no comment",
  """multi = 1
  line \\""" quote""", 'literal''s',
  # [x]
]
text = """"quoted"""" # four
a.b = { x = "}" , y = [1] }

[["foo.com".automation]]
regex = \'\'\'\\d+ = [\'\'\'
[["foo.com".automation]]
regex = "x"
  [ provider . "p.q" . sources."ip-1" ]
max_ready = 1
'''.replace(", 'literal''s'", ", 'literal'")


def test_lines_of_toml():
    lines = locate_toml(_TOML).lines

    assert {path: line for path, line in lines.items() if path[0] != "provider"} == {
        ("default",): 2,
        ("default", "connection_limit"): 3,
        ("default", "max_ready"): 4,
        ("default", "regexes"): 5,
        ("default", "text"): 11,
        ("default", "a"): 12,
        ("default", "a", "b"): 12,
        ("foo.com",): 14,
        ("foo.com", "automation"): 14,
        ("foo.com", "automation", 0): 14,
        ("foo.com", "automation", 0, "regex"): 15,
        ("foo.com", "automation", 1): 16,
        ("foo.com", "automation", 1, "regex"): 17,
    }
    assert lines["provider", "p.q", "sources", "ip-1", "max_ready"] == 19


def test_lines_of_json():
    places = locate_json('{"a": {"b": [1,\n {"c": "}\\""}],\n "b": 2},\n "d":\n [[], {}]}')

    assert places.lines == {
        ("a",): 1,
        ("a", "b"): 3,
        ("a", "b", 0): 1,
        ("a", "b", 1): 2,
        ("a", "b", 1, "c"): 2,
        ("d",): 4,
        ("d", 0): 5,
        ("d", 1): 5,
    }
    assert places.repeated == [(("a", "b"), 3)]


@given(st.binary(max_size=200), st.sampled_from([".toml", ".json"]))
def test_no_bytes_break_the_reader(tmp_path_factory, content, suffix):
    path = tmp_path_factory.getbasetemp() / f"any{suffix}"
    path.write_bytes(content)

    for issue in _find_issues(path):
        assert describe_issue(issue)


_KEYS = st.text(min_size=1, max_size=6)
_SCALARS = st.none() | st.booleans() | st.integers() | st.text(max_size=6)
_DOCUMENTS = st.dictionaries(
    st.sampled_from(["default", "provider", "foo.example", "foo"]) | _KEYS,
    st.recursive(
        _SCALARS,
        lambda inner: st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["match", "sources", "automation", "unset", "mx_rollup", "regex", "action",
                 "trigger", "max_ready", "MXSuffix", "Threshold", "SetConfig", "name"]
            ) | _KEYS,
            inner,
            max_size=4,
        ),
        max_leaves=12,
    ),
)  # fmt: skip


@given(_DOCUMENTS)
def test_no_document_breaks_the_parser(tmp_path_factory, document):
    path = tmp_path_factory.getbasetemp() / "document.json"
    path.write_text(json.dumps(document, indent=1))

    for issue in _find_issues(path):
        assert describe_issue(issue)
        json.dumps(issue_json(issue))
