"""Bad input to an import: whatever the file, it is taken whole or refused whole, in words."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import tomlkit
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from sqlalchemy import create_engine, text

from policy_server.cli.main import run
from policy_server.rule_files.reader import FileFormat, read_content
from policy_server.rules.catalogue import build_catalogue
from policy_server.rules.parse import parse_layer
from policy_server.store.database import Database
from policy_server.store.layers import read_layer
from policy_server.store.revisions import read_revision
from policy_server.store.rules import read_rules
from policy_server.store.schema import upgrade
from tests.unit.policy_server.rules.layer_drafts import without_places

_DATA = Path(__file__).parents[1] / "data"
_GOOD = [
    *(_DATA / "good_rules").glob("*.toml"),
    *(_DATA / "bad_rules").glob("*.toml"),
    Path(__file__).parents[2] / "policy_server" / "builtin" / "builtin.toml",
    Path(__file__).parents[2] / "examples" / "demo" / "rules.toml",
]
_KEYS = [
    *sorted(build_catalogue().options),
    *("match", "sources", "automation", "unset", "mx_rollup", "replace_base", "enabled"),
    *("regex", "action", "trigger", "duration", "mode", "MXSuffix", "Threshold", "SetConfig"),
    *("default", "provider", "a.example", "name", "value", "key_data", "env", "ip-1"),
]
_keys = st.sampled_from(_KEYS) | st.text(st.characters(codec="utf-8"), max_size=4)
_scalars = (
    st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(codec="utf-8"), max_size=6)
    | st.sampled_from(["100/s", "local:5", "1h", "Suspend", "Required", "(", "a" * 9, ".", "*"])
    | st.dates()
    | st.datetimes()
)
_documents = st.dictionaries(
    _keys,
    st.recursive(
        _scalars,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_keys, inner, max_size=4),
        max_leaves=12,
    ),
    max_size=4,
)

_fuzz = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A directory with a database that holds one layer."""
    directory = tmp_path_factory.mktemp("fuzz")
    database = _make_database(directory)
    upgrade(database)
    yield directory, database
    database.close()


def _make_database(directory):
    """Make settings and an empty database."""
    url = f"sqlite:///{directory}/penstock.db"
    (directory / "settings.toml").write_text(f'[database]\nurl = "{url}"\n')
    return Database(url)


def _import(place, content, suffix):
    """Import a file after a good one; both or none must have been imported."""
    directory, database = place
    good, other = directory / "good.toml", directory / f"other{suffix}"
    # Another content each time, so that it would show had it been imported.
    revision = database.read_now(read_revision)
    good.write_text(f'["default"]\nmax_ready = {revision + 1}\n')
    other.write_bytes(content)
    before = database.read_now(read_rules)

    config = ["--config", str(directory / "settings.toml")]
    status = run(["rules", "import", str(good), str(other), *config])

    after = database.read_now(read_rules)
    if status:
        assert status == 1
        assert after == before
        return
    assert after.layers[0].blocks[0].options == {"max_ready": revision + 1}
    format = FileFormat(suffix[1:])
    draft, _ = read_content(content, name="other", file="", format=format)
    stored, unreadable = database.read_now(lambda c: read_layer(c, "other"))
    assert unreadable == ()
    # What is stored is what was written, and as good.
    expected = replace(draft, description=stored.description)
    assert without_places(stored) == without_places(expected)
    assert [issue for issue in parse_layer(stored)[1] if issue.severity == "error"] == []


@_fuzz
@given(content=st.binary(max_size=200), suffix=st.sampled_from([".toml", ".json"]))
def test_any_bytes(place, content, suffix):
    _import(place, content, suffix)


@_fuzz
@given(document=_documents)
def test_any_toml(place, document):
    try:
        content = tomlkit.dumps(document)
    except (ValueError, TypeError, tomlkit.exceptions.TOMLKitError):
        # It does not write every document.
        assume(False)
    _import(place, content.encode(), ".toml")


@_fuzz
@given(document=_documents)
def test_any_json(place, document):
    _import(place, json.dumps(document, default=str).encode(), ".json")


@st.composite
def _mutated(draw):
    content = draw(st.sampled_from([path.read_bytes() for path in _GOOD]))
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(content)))
        end = min(len(content), start + draw(st.integers(0, 20)))
        kind = draw(st.sampled_from(["delete", "insert", "repeat", "line"]))
        if kind == "delete":
            content = content[:start] + content[end:]
        elif kind == "insert":
            piece = draw(
                st.binary(max_size=4)
                | st.sampled_from([b'"', b"'''", b"[[", b"]", b"{", b"=", b"\n", b"#", b"\r", b"."])
            )
            content = content[:start] + piece + content[start:]
        elif kind == "repeat":
            content = content[:end] + content[start:]
        else:
            lines = content.split(b"\n")
            lines.insert(start % len(lines), lines[end % len(lines)])
            content = b"\n".join(lines)
    return content


@_fuzz
@given(content=_mutated())
def test_any_mutation_of_a_file(place, content):
    _import(place, content, ".toml")


_PATTERN = '[["default".automation]]\nregex = {}\naction = "Suspend"\nduration = "1h"\n'


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param("x = " + "[" * 100_000, "nested too deeply", id="deep list"),
        pytest.param("x = " + "{a=" * 100_000, "nested too deeply", id="deep table"),
        pytest.param("[" + "a." * 5000 + "b]", "nested", id="deep header"),
        pytest.param(
            "".join(f'["{"a." * n}b"]\n' for n in range(300)), "is no domain name", id="long names"
        ),
        pytest.param('["A.example"]\n["a.example."]\n', "already in line 1", id="duplicate blocks"),
        pytest.param('["a.example"]\n["a.example"]\n', "twice", id="duplicate tables"),
        pytest.param(_PATTERN.format("'('"), "does not compile", id="broken pattern"),
        pytest.param(
            _PATTERN.format(f"'(?=x){'(' * 4000}{')' * 4000}'"),
            "does not compile",
            id="deep pattern",
        ),
        pytest.param(
            _PATTERN.format("'(?=x)((((a{100}){100}){100}){100}){100}'"),
            "repeats too much",
            id="pattern that takes all memory",
        ),
        pytest.param(_PATTERN.format(f"'{'a' * 20_000}'"), "at most 10000", id="long pattern"),
        pytest.param(_PATTERN.format("''"), "empty pattern", id="empty pattern"),
        pytest.param('["a\\u0000.example"]\nmx_rollup = false\n', "control", id="null in a name"),
        pytest.param('["default".sources."a\\nb"]\n', "control", id="line end in a source"),
        pytest.param("x = 1e999999\n", "", id="endless float"),
        pytest.param("\x00", "not TOML", id="null"),
    ],
)
def test_hostile_files_are_refused_in_words(place, capsys, content, words):
    capsys.readouterr()

    _import(place, content.encode(), ".toml")

    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert words in said.err


@pytest.mark.parametrize(
    "pattern",
    [
        "(a+)+$",
        "(a|a)*b",
        "(.*a){30}",
        "(?=(a+))\\\\1b",
        "((a{100}){100}){100}",
        "[[:word:]]{1000}",
    ],
)
def test_hostile_patterns_cost_no_time_at_import(place, pattern):
    """What they cost when they are matched is bounded there."""
    _import(place, _PATTERN.format(f'"{pattern}"').encode(), ".toml")


_WRONG_VALUES = (
    *("true", "0", "-1", "1180591620717411303424", "1.5", "nan", '""', '"x"', '"100/foo"'),
    *("[]", "[1]", "[[]]", "{}", "{ a = {} }", "1979-05-27", "07:32:00"),
)


@pytest.mark.parametrize("name", sorted(build_catalogue().options))
def test_every_option_takes_any_value_or_refuses_it_in_words(name):
    """And every option refuses most of them."""
    option = build_catalogue().options[name]
    path = 'provider."p"' if option.provider_only else '"default"'
    refused = 0
    for value in _WRONG_VALUES:
        content = f"[{path}]\n{name} = {value}\n".encode()
        draft, issues = read_content(content, name="x", file="x", format=FileFormat.TOML)
        found = [*issues, *parse_layer(draft)[1]]
        refused += bool(found)
        for issue in found:
            assert (issue.line, issue.option) == (2, name)
            assert issue.message.startswith(name)
    assert refused >= len(_WRONG_VALUES) / 2


def test_rows_that_point_nowhere_are_refused_by_the_database(place):
    _, database = place
    for statement in (
        "INSERT INTO rule_blocks (layer_id, scope, name) VALUES (999, 'domain', 'x')",
        "INSERT INTO rule_options (block_id, name, value) VALUES (999, 'max_ready', '1')",
        "INSERT INTO provider_matches (block_id, kind, value) VALUES (999, 'mx_suffix', 'a')",
        "INSERT INTO automation_rules (block_id, regexes, actions, trigger, duration) "
        "VALUES (999, '[]', '[]', '1', '1')",
    ):
        with pytest.raises(Exception, match="is the id of no row of"):
            database.write_now(lambda c, s=statement: c.execute(text(s)))


def test_rows_that_point_nowhere_all_the_same_do_no_harm(tmp_path, capsys):
    """The sqlite3 shell does not check foreign keys; older schemas let such rows in."""
    directory, database = tmp_path, _make_database(tmp_path)
    config = ["--config", str(directory / "settings.toml")]
    upgrade(database, "0007")

    def insert(connection):
        for statement in (
            "INSERT INTO rule_blocks (id, layer_id, scope, name) VALUES (997, 998, 'domain', 'x')",
            "INSERT INTO rule_options (block_id, name, value) VALUES (999, 'max_ready', '1')",
            "INSERT INTO automation_rules (block_id, regexes, actions, trigger, duration) "
            "VALUES (999, '[]', '[]', '1', '1')",
        ):
            connection.execute(text(statement))

    _without_foreign_keys(directory, insert)
    upgrade(database)

    _import((directory, database), b'["default"]\nmax_ready = 5\n', ".toml")
    for command in (["list"], ["errors"], ["history"], ["export", "other"], ["rollback", "1"]):
        assert run(["rules", *command, *config]) == 0
    assert "Traceback" not in capsys.readouterr().err
    database.close()


def _without_foreign_keys(directory, insert):
    engine = create_engine(f"sqlite:///{directory}/penstock.db")
    with engine.begin() as connection:
        insert(connection)
    engine.dispose()
