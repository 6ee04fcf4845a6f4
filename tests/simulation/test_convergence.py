"""
Whatever is lost, late, repeated or killed: in the end every agent holds what the database says,
and every acknowledged outcome is counted once.

Each seed is a world of its own; PENSTOCK_SEEDS="from-to" runs others, or more of them.
"""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from policy_server.store.database import Database
from policy_server.store.schema import upgrade
from tests.simulation.world import World, draw_plan

_FIRST, _LAST = map(int, os.environ.get("PENSTOCK_SEEDS", "0-60").split("-"))
#: Warnings of the story that are printed of a seed that fails.
_MOST_PRINTED = 400


@pytest.fixture(scope="session")
def template(tmp_path_factory) -> Path:
    """A migrated, empty database."""
    path = tmp_path_factory.mktemp("template") / "penstock.db"
    database = Database(f"sqlite:///{path}")
    upgrade(database)
    database.close()
    return path


class _Errors(logging.Handler):
    """Hands what is logged as an error to a world."""

    def __init__(self, world: World) -> None:
        super().__init__(logging.ERROR)
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        why = record.exc_info[1] if record.exc_info else ""
        self._world.note_error(f"{record.name}: {record.getMessage()} {why!r}")


@pytest.fixture
def errors() -> Iterator[list[logging.Handler]]:
    """Handlers that are removed at the end."""
    handlers: list[logging.Handler] = []
    yield handlers
    for handler in handlers:
        logging.getLogger().removeHandler(handler)


@pytest.mark.parametrize("seed", range(_FIRST, _LAST))
def test_agents_end_up_with_what_the_database_says(seed, tmp_path, template, errors):
    world = World(draw_plan(seed), tmp_path, template)
    errors.append(_Errors(world))
    logging.getLogger().addHandler(errors[-1])

    world.run()

    if world.violations:
        print(world.plan, *world.log[-_MOST_PRINTED:], sep="\n")  # noqa: T201 # the story of the seed
    assert not world.violations
