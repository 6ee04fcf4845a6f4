"""The examples in docstrings hold."""

import doctest
import importlib

import pytest


@pytest.mark.parametrize("name", ["actions", "holders", "trials"])
def test_examples_in_docstrings_hold(name):
    module = importlib.import_module(f"policy_server.conversions.{name}")

    failed, attempted = doctest.testmod(module)

    assert attempted > 0
    assert failed == 0
