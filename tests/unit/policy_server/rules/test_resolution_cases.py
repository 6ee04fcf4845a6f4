"""The resolution cases of tests/data/resolution, which people who know delivery can read."""

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from policy_server.rules.explain import explain_rows
from policy_server.rules.resolve import resolve
from policy_server.rules.values import format_value
from tests.unit.policy_server.rules.drafts import ask, make_layer, make_snapshot

_CASES = Path(__file__).parents[3] / "data/resolution"


def _read_questions() -> Iterator[Any]:
    for path in sorted(_CASES.glob("*.toml")):
        case = tomllib.loads(path.read_text())
        for number, question in enumerate(case["question"], start=1):
            yield pytest.param(case, question, id=f"{path.stem}-{number}")


@pytest.mark.parametrize(("case", "asked"), list(_read_questions()))
def test_question_gets_its_answer(case, asked):
    layers = [make_layer(layer["name"], layer["rules"]) for layer in case["layer"]]
    snapshot = make_snapshot(layers, case["mx"])
    question = ask(case["mx"], asked["domain"], asked.get("source", "ip-1"))
    question = structs.replace(question, site_name=asked.get("site_name", question.site_name))

    resolution = resolve(snapshot, question)

    rows = {row.option: row for row in explain_rows(resolution)}
    values = {name: format_value(option.value) for name, option in resolution.options.items()}
    assert resolution.path_name == asked["path_name"]
    if "provider_names" in asked:
        assert list(resolution.provider_names) == asked["provider_names"]
    for name, value in asked.get("options", {}).items():
        assert values[name] == value, name
    for name, set_by in asked.get("set_by", {}).items():
        assert rows[name].set_by == set_by, name
    for name, overrode in asked.get("overrode", {}).items():
        assert rows[name].overrode == ", ".join(overrode), name
    assert not set(asked.get("absent", ())) & values.keys()
