"""The --config option, which may stand before or after a command's name."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from agent.settings import Settings, load_settings

_Command = TypeVar("_Command", bound=Callable[..., Any])
_KEY = "penstock.config"


def config_option(command: _Command) -> _Command:
    """Give *command* the option, as the argument `config_path`."""
    return click.option(
        "--config",
        "config_path",
        metavar="FILE",
        type=click.Path(dir_okay=False),
        help="The configuration, TOML.",
    )(command)


def use_config(context: click.Context, config_path: str | None) -> None:
    """Remember the option for the commands below *context*."""
    if config_path is not None:
        context.meta[_KEY] = config_path


def settings_for(config_path: str | None) -> Settings:
    """Load the configuration that was named. Errors: `SettingsError` with every mistake."""
    return load_settings(config_path_of(config_path))


def config_path_of(config_path: str | None) -> str | None:
    """The configuration that was named, before the command's name or after; None: none was."""
    if config_path is None:
        found: str | None = click.get_current_context().meta.get(_KEY)
        return found
    return config_path
