"""What a change would change: by meaning, in rules and in answers."""

import json

import pytest
from hypothesis import given

from policy_server.rules.diff import (
    Change,
    OptionDiff,
    diff_answers,
    diff_layer,
    list_questions,
)
from policy_server.rules.layers import AutomationDraft, BlockDraft, LayerDraft, Scope
from policy_server.rules.site import Site
from tests.unit.policy_server.rules.drafts import make_layer, make_sites, make_snapshot
from tests.unit.policy_server.rules.layer_drafts import layer_drafts

_MX = {"a.example": [(10, "mx.a.example")], "b.example": [(10, "mx.b.example")]}


def _layer(*blocks):
    return LayerDraft(name="custom", blocks=blocks)


def _block(name="", source="", **more):
    scope = Scope.DOMAIN if name else Scope.DEFAULT
    return BlockDraft(scope=scope, name=name, source=source, **more)


def _changed(old, new):
    """The changes of one block, as (option, change, old, new)."""
    (block,) = diff_layer(_layer(_block(**old)), _layer(_block(**new))).blocks
    assert block.change is Change.CHANGED
    return [(item.option, item.change.value, item.old, item.new) for item in block.options]


@pytest.mark.parametrize(
    ("old", "new", "changes"),
    [
        pytest.param(
            {"options": {"connection_limit": 3}},
            {"options": {"connection_limit": 5}},
            [("connection_limit", "changed", 3, 5)],
            id="a value",
        ),
        pytest.param(
            {"options": {"max_message_rate": "60/min"}},
            {"options": {"max_message_rate": None}},
            [("max_message_rate", "changed", "60/m", None)],
            id="unset",
        ),
        pytest.param(
            {"options": {"max_ready": 1, "smtp_port": 26}},
            {"options": {"max_ready": 1, "idle_timeout": "1m"}},
            [("smtp_port", "removed", 26, None), ("idle_timeout", "added", None, 60)],
            id="another option",
        ),
        pytest.param(
            {},
            {"replace_base": True, "enabled": False},
            [("replace_base", "added", None, True), ("enabled", "added", None, False)],
            id="switches",
        ),
        pytest.param(
            {"options": {"smtp_auth_plain_password": {"key_data": "hunter2"}}},
            {"options": {"smtp_auth_plain_password": ["hunter2"]}},
            [
                (
                    "smtp_auth_plain_password",
                    "changed",
                    {"key_data": "(hidden)"},
                    "(hidden)",
                )
            ],
            id="secrets stay hidden",
        ),
        pytest.param(
            {"options": {"smtp_auth_plain_password": {"key_data": "hunter2"}}},
            {"options": {"smtp_auth_plain_password": {"key_data": "hunter3"}}},
            [
                (
                    "smtp_auth_plain_password",
                    "changed",
                    {"key_data": "(hidden)"},
                    {"key_data": "(hidden)"},
                )
            ],
            id="another secret",
        ),
        pytest.param(
            {"options": {"max_ready": "many"}},
            {"options": {"max_ready": 5}},
            [("max_ready", "changed", "many", 5)],
            id="repair of a bad value",
        ),
    ],
)
def test_options_that_change_are_listed(old, new, changes):
    assert _changed(old, new) == changes


def test_another_spelling_is_no_change():
    secret = {"tls_private_key": {"key_data": "hunter2"}}
    old = _block(
        "A.example.", options={"max_message_rate": "1,000/hr", "idle_timeout": "1m", **secret}
    )
    new = _block("a.example", options={"max_message_rate": "1000/h", "idle_timeout": 60, **secret})

    diff = diff_layer(_layer(old), _layer(new))

    assert (diff.change, diff.blocks) == (None, ())


def test_blocks_come_and_go():
    kept, gone, new = _block(), _block("a.example", "ip-1"), _block("b.example")

    diff = diff_layer(_layer(kept, gone), _layer(kept, new))

    assert diff.change is Change.CHANGED
    assert [(block.block, block.change.value) for block in diff.blocks] == [
        ('"a.example".sources."ip-1"', "removed"),
        ('"b.example"', "added"),
    ]


def test_a_new_layer_is_added_even_if_empty():
    assert diff_layer(None, _layer()).change is Change.ADDED


def test_another_order_is_a_change():
    first, second = _block("a.example"), _block("b.example")

    diff = diff_layer(_layer(first, second), _layer(second, first))

    assert (diff.change, diff.is_reordered, diff.blocks) == (Change.CHANGED, True, ())


def test_automation_is_compared_as_one_list():
    rule = AutomationDraft(regexes=("busy",), actions=("Suspend",), duration=60)

    (change,) = _changed({}, {"automation": (rule,)})

    assert change[:2] == ("automation", "added")
    assert change[3][0]["regex"] == ["busy"]


@given(layer_drafts)
def test_nothing_changes_a_layer_into_itself(layer):
    assert diff_layer(layer, layer).change is None


@given(layer_drafts, layer_drafts)
def test_a_diff_names_every_change_in_json(old, new):
    for block in diff_layer(old, new).blocks:
        for option in block.options:
            assert option.change is not Change.CHANGED or option.old != option.new
            json.dumps([option.old, option.new])


def test_answers_that_change_are_listed_for_sites_and_sources():
    rules = '["default"]\nconnection_limit = 10\n'
    before = make_snapshot([make_layer("base", rules)], _MX)
    change = make_layer(
        "custom", '["a.example"]\nmax_ready = 5\n["b.example".sources."ip-2"]\nmax_ready = 6\n'
    )
    after = make_snapshot([make_layer("base", rules), change], _MX)
    questions, left_out = list_questions(make_sites(_MX).values(), ["ip-1", "ip-2"], limit=10)

    answers = list(diff_answers(before, after, questions))

    assert left_out == 0
    changed = OptionDiff(option="max_ready", change=Change.CHANGED, old=1024, new=5)
    assert [
        (answer.question.routing_domain, answer.question.egress_source) for answer in answers
    ] == [("a.example", "ip-1"), ("a.example", "ip-2"), ("b.example", "ip-2")]
    assert answers[0].options == (changed,)


def test_a_domain_that_is_singled_out_gets_another_path():
    alone = make_layer("custom", '["a.example"]\nmx_rollup = false\nmax_ready = 5\n')
    questions, _ = list_questions(make_sites(_MX).values(), ["ip-1"], limit=10)

    (answer,) = diff_answers(make_snapshot([], _MX), make_snapshot([alone], _MX), questions)

    assert answer.old_path_name == "ip-1->mx.a.example"
    assert answer.new_path_name == "ip-1->mx.a.example#a.example"


def test_paths_beyond_the_limit_are_counted():
    sites = [Site(domain=f"{n}.example", site_name="", mx_hosts=()) for n in range(5)]

    questions, left_out = list_questions(sites, ["a", "b"], limit=3)

    assert (len(questions), left_out) == (3, 7)
