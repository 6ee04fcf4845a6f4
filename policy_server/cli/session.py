"""
What every command starts from: the settings, and the database they name.
"""

import asyncio
import gc
import os
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from policy_server.settings import Settings, environment_names, load_settings
from policy_server.store.database import Database
from policy_server.store.schema import check_schema, read_schema, upgrade

_Result = TypeVar("_Result")
_Function = TypeVar("_Function", bound=Callable[..., Any])

#: Shown under the help of commands that read the settings.
ENVIRONMENT_HELP = "Settings are overridden by the environment: " + ", ".join(environment_names())


@dataclass(slots=True)
class Session:
    """The options that commands share."""

    config: str | None = None

    def settings(self) -> Settings:
        """Load the settings, or raise all that is wrong with them."""
        return load_settings(self.config, os.environ)


def config_option(command: _Function) -> _Function:
    """Let a command take --config, before or after its name."""

    def remember(context: click.Context, _option: click.Parameter, value: str | None) -> None:
        if value is not None:
            context.ensure_object(Session).config = value

    return click.option(
        "--config",
        metavar="FILE",
        type=click.Path(dir_okay=False),
        expose_value=False,
        callback=remember,
        help="TOML file with settings; the defaults need none.",
    )(command)


json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
expect_option = click.option(
    "--expect-revision",
    "expected_revision",
    type=click.IntRange(0),
    default=0,
    metavar="N",
    help="Fail if the rules have changed since revision N; 0 takes them as they are.",
)


@contextmanager
def open_database(settings: Settings) -> Iterator[Database]:
    """Open the database; a new embedded one is created, one of another version refused."""
    database = Database(settings.database.url)
    try:
        if database.is_sqlite and not database.read_now(read_schema):
            upgrade(database)
        database.read_now(check_schema)
        yield database
    finally:
        database.close()


@contextmanager
def keeping_objects() -> Iterator[None]:
    """Do without the collector of cycles: a large import has millions of objects, and none."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def database_exists(settings: Settings) -> bool:
    """Whether there is a database yet; one elsewhere is said to be there."""
    path = settings.database.url.removeprefix("sqlite:///")
    return path == settings.database.url or Path(path).exists()


def run_async(work: Coroutine[Any, Any, _Result]) -> _Result:
    """Run the asynchronous part of a command."""
    return asyncio.run(work)
