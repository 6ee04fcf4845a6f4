"""What holds for every answer; single cases stand in tests/data/resolution."""

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from policy_server.rules.config import to_config
from policy_server.rules.explain import explain_json
from policy_server.rules.layers import Block, Layer, Scope
from policy_server.rules.resolve import Override, consulted_rules, resolve
from policy_server.rules.snapshot import compile_snapshot
from policy_server.rules.values import Limit, format_value
from tests.unit.policy_server.rules.drafts import ask, make_layer, make_sites, make_snapshot
from tests.unit.policy_server.rules.made_rules import MX, QUESTIONS, made_blocks, made_layers


@given(made_layers(), QUESTIONS)
def test_equal_rules_give_equal_answers(layers, question):
    first = resolve(make_snapshot(layers, MX), question)
    second = resolve(make_snapshot(list(layers), dict(reversed(MX.items()))), question)

    assert first == second
    assert to_config(first).SerializeToString(deterministic=True) == to_config(
        second
    ).SerializeToString(deterministic=True)


@given(made_layers(), QUESTIONS, st.integers())
def test_order_of_blocks_of_different_scopes_does_not_matter(layers, question, seed):
    """Only the order within one scope counts, and that of providers among each other."""

    def shuffled(layer: Layer) -> Layer:
        groups: dict[Any, list[Block]] = {}
        for block in layer.blocks:
            # Rolled-up domains may share a site, which is one scope.
            is_site = block.scope is Scope.DOMAIN and block.mx_rollup
            key: Any = (block.scope, "" if is_site else block.name, block.mx_rollup)
            key = (block.scope, "", True) if block.scope is Scope.PROVIDER else key
            groups.setdefault(key, []).append(block)
        order = [key for key, blocks in groups.items() for _ in blocks]
        random.Random(seed).shuffle(order)
        return replace(layer, blocks=tuple(groups[key].pop(0) for key in order))

    plain = resolve(make_snapshot(layers, MX), question)
    mixed = resolve(make_snapshot([shuffled(layer) for layer in layers], MX), question)

    assert plain == mixed


@given(made_layers(), made_blocks())
def test_rule_for_another_domain_changes_nothing(layers, block):
    stranger = replace(
        block, scope=Scope.DOMAIN, name="c.example", matches=(), layer="last", replace_base=True
    )
    question = ask(MX, "a.example")

    before = resolve(make_snapshot(layers, MX), question)
    more = [*layers, Layer(id=99, name="last", blocks=(stranger,))]

    assert resolve(make_snapshot(more, MX), question) == before


@given(made_layers(), made_blocks())
def test_rule_for_another_source_changes_nothing(layers, block):
    stranger = replace(block, source="ip-9", matches=(), layer="last")
    question = ask(MX, "a.example")
    # The source's block may be the first of a provider, which nothing matches.
    before = resolve(make_snapshot(layers, MX), question)
    more = [*layers, Layer(id=99, name="last", blocks=(stranger,))]

    assert resolve(make_snapshot(more, MX), question) == before


@given(made_layers(), QUESTIONS)
def test_explanation_and_config_have_the_same_values(layers, question):
    resolution = resolve(make_snapshot(layers, MX), question)

    config = to_config(resolution)
    explained = explain_json(resolution, question, revision=1, etag="e")["options"]

    present = {field.name for field, _ in config.ListFields()}
    maps = {name for name, option in explained.items() if option["value"] == {}}
    assert present == explained.keys() - maps
    assert config.max_ready == explained["max_ready"]["value"]
    assert config.data_timeout.ToTimedelta().total_seconds() == explained["data_timeout"]["value"]
    for key, limit in config.additional_connection_limits.items():
        spelt = explained["additional_connection_limits"]["value"][key]
        assert format_value(Limit(limit.value, limit.local)) == spelt


@given(made_layers(), QUESTIONS)
def test_every_value_that_is_not_built_in_has_an_origin_in_the_rules(layers, question):
    resolution = resolve(make_snapshot(layers, MX), question)

    said = {
        (block.layer, name) for layer in layers for block in layer.blocks for name in block.options
    }
    for name, option in resolution.options.items():
        implied = name == "provider_name" or name.startswith("additional_")
        if option.set_by and not implied:
            assert (option.set_by.layer, name) in said


@given(made_layers(), QUESTIONS)
def test_domain_with_a_path_of_its_own_is_singled_out_by_a_rule(layers, question):
    resolution = resolve(make_snapshot(layers, MX), question)

    is_alone = any(
        block.options
        for layer in layers
        for block in layer.blocks
        if (block.name == question.routing_domain and not block.mx_rollup)
        or (block.scope is Scope.PROVIDER)
    )
    if "#" in resolution.path_name and question.site_name:
        assert is_alone


def _override(**fields: Any) -> Override:
    return Override(
        **{
            "action_id": 1,
            "routing_domain": "",
            "site_name": "mx.one.example",
            "egress_source": "ip-1",
            "option": "max_ready",
            "value": 5,
            "expire_time": datetime(2026, 1, 1, tzinfo=UTC),
            **fields,
        }
    )


def test_action_wins_over_every_rule_and_is_explained():
    base = make_layer("base", '["a.example"]\nmx_rollup = false\nmax_ready = 9\n')
    question = ask(MX, "a.example")

    resolution = resolve(make_snapshot([base], MX), question, [_override()])

    explained = explain_json(resolution, question, revision=3, etag="e")["options"]["max_ready"]
    assert explained["value"] == 5
    assert explained["set_by"] == {
        "layer": "automation",
        "scope": "site",
        "name": "mx.one.example",
        "source": "ip-1",
        "block_id": None,
        "automation_action_id": 1,
    }
    assert [entry["value"] for entry in explained["overrode"]] == [9]


def test_action_concerns_its_source_and_its_site_or_domain_alone():
    snapshot = make_snapshot([], MX)
    overrides = [
        _override(egress_source="ip-2", value=2),
        _override(site_name="mx.two.example", value=3),
        _override(routing_domain="b.example", value=4),
    ]

    resolution = resolve(snapshot, ask(MX, "a.example"), overrides)
    other = resolve(snapshot, ask(MX, "b.example"), overrides)

    assert resolution.options["max_ready"].value == 1024
    assert other.options["max_ready"].value == 4


def test_action_that_lasts_longest_wins():
    later = datetime(2026, 1, 2, tzinfo=UTC)
    overrides = [_override(action_id=2, value=7, expire_time=later), _override(value=5)]

    resolution = resolve(make_snapshot([], MX), ask(MX, "a.example"), overrides)

    assert resolution.options["max_ready"].value == 7


def test_derived_default_follows_its_terms_and_a_rule_wins_over_it():
    sums = make_layer("base", '["default"]\ndata_timeout = 1\nmail_from_timeout = 2\n')
    own = make_layer("custom", '["default"]\nsystem_shutdown_timeout = "30s"\n')
    question = ask(MX, "a.example")

    derived = resolve(make_snapshot([sums], MX), question).options["system_shutdown_timeout"]
    ruled = resolve(make_snapshot([sums, own], MX), question).options["system_shutdown_timeout"]

    assert (derived.value, derived.set_by) == (timedelta(seconds=603), None)
    assert ruled.value == timedelta(seconds=30)


def test_rules_are_consulted_from_the_general_to_the_special():
    automation = '\n[[{}.automation]]\nregex = "{}"\naction = "Suspend"\nduration = "1h"\n'
    base = make_layer(
        "base",
        automation.format('"c.example"', "other")
        + automation.format('"b.example"', "site")
        + automation.format("provider.p", "provider")
        + '[provider.p]\nmatch = [{MXSuffix=".one.example"}]\n'
        + automation.format("default", "default"),
    )
    alone = make_layer(
        "alone", '["a.example"]\nmx_rollup = false\n' + automation.format('"a.example"', "domain")
    )

    rules = consulted_rules(make_snapshot([alone, base], MX), ask(MX, "a.example"))

    assert [rule.regexes[0] for rule in rules] == ["default", "provider", "site", "domain"]


def test_rule_of_a_domain_whose_site_is_not_known_concerns_that_domain():
    base = make_layer("base", '["a.example"]\nmax_ready = 9\n')
    snapshot = compile_snapshot([base], sites={}, revision=1)

    assert resolve(snapshot, ask(MX, "a.example")).options["max_ready"].value == 9
    assert resolve(snapshot, ask(MX, "b.example")).options["max_ready"].value == 1024
    assert snapshot.rolled_up_domains == {"a.example"}


def test_site_known_by_name_alone_has_its_rules():
    base = make_layer("base", '["a.example"]\nmax_ready = 9\n')
    snapshot = compile_snapshot([base], sites=make_sites(MX), revision=1)
    question = structs.replace(ask(MX, "b.example"), mx_hosts=())

    assert resolve(snapshot, question).options["max_ready"].value == 9


def test_disabled_layer_says_nothing():
    base = replace(make_layer("base", '["default"]\nmax_ready = 9\n'), enabled=False)

    resolution = resolve(make_snapshot([base], MX), ask(MX, "a.example"))

    assert resolution.options["max_ready"].value == 1024


def test_unset_in_the_default_removes_all_that_a_provider_option_implied():
    base = make_layer(
        "base",
        """
        [provider."p"]
        match = [{DomainSuffix=".example"}]
        provider_connection_limit = 5
        [provider."q"]
        match = [{DomainSuffix=".example"}]
        provider_connection_limit = 6
        ["a.example"]
        unset = ["provider_connection_limit"]
        """,
    )
    snapshot = make_snapshot([base], MX)

    assert not resolve(snapshot, ask(MX, "a.example")).options["additional_connection_limits"].value
    assert resolve(snapshot, ask(MX, "c.example")).options[
        "additional_connection_limits"
    ].value == {
        "shaping-provider-p-ip-1-limit": Limit(5),
        "shaping-provider-q-ip-1-limit": Limit(6),
    }


def test_entries_of_maps_are_explained_one_by_one():
    base = make_layer("base", '["default"]\nadditional_connection_limits = {a=1, b=2}\n')
    custom = make_layer("custom", '["a.example"]\nadditional_connection_limits = {b=3}\n')
    question = ask(MX, "a.example")

    resolution = resolve(make_snapshot([base, custom], MX), question)

    explained = explain_json(resolution, question, revision=1, etag="e")["options"]
    limits = explained["additional_connection_limits"]
    assert limits["value"] == {"a": 1, "b": 3}
    assert {key: origin["layer"] for key, origin in limits["entries"].items()} == {
        "a": "base",
        "b": "custom",
    }
    assert [entry["value"] for entry in limits["overrode"]] == [{"b": 2}]
