import doctest
import importlib

import pytest


@pytest.mark.parametrize(
    "name",
    [
        *("values", "catalogue", "nearest", "site", "issues", "document", "comments", "explain"),
        "patterns",
    ],
)
def test_examples_in_docstrings_hold(name):
    module = importlib.import_module(f"policy_server.rules.{name}")

    failed, attempted = doctest.testmod(module)

    assert attempted > 0
    assert failed == 0
