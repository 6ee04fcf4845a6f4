"""docs/delivery.md: every behaviour names tests, and each of them exists."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "docs" / "delivery.md"
ID = re.compile(r"`([a-z_/]+/test_\w+\.py)::(\w+)`")
ROWS = [
    line
    for line in PAGE.read_text("utf-8").splitlines()
    if line.startswith("|") and line not in ("| behaviour | test |", "|---|---|")
]


@cache
def defined_in(file: str) -> frozenset[str]:
    tree = ast.parse((TESTS / file).read_bytes())
    functions = (
        node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    classes = (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef))
    return frozenset(node.name for node in (*functions, *classes))


@pytest.mark.parametrize("row", ROWS, ids=[row.split("|")[1].strip()[:60] for row in ROWS])
def test_every_behaviour_names_tests_that_exist(row: str) -> None:
    _, behaviour, tests, _ = row.split("|")
    named = ID.findall(tests)

    assert behaviour.strip()
    assert named
    assert ID.sub("", tests).strip(" ,") == ""
    for file, name in named:
        assert name in defined_in(file)


def test_no_behaviour_is_told_twice() -> None:
    behaviours = [row.split("|")[1].strip() for row in ROWS]

    assert len(behaviours) == len(set(behaviours))
