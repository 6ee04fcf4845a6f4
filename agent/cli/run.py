"""`penstock-agent run`: run the agent until SIGTERM or SIGINT."""

import contextlib
import json
import os
import resource
from dataclasses import asdict
from pathlib import Path

import click
import uvloop

from agent.cli.config import config_option, config_path_of, settings_for
from agent.cli.log_format import start_log
from agent.collector import look_seldom
from agent.settings import Settings
from agent.workers.child import Launch
from agent.workers.place import find_left_over
from agent.workers.ready import Ports


@click.command()
@config_option
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="What is logged to stderr.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the ports as JSON once it is ready.")
def run(config_path: str | None, log_level: str, as_json: bool) -> None:
    """
    Run the agent until SIGTERM or SIGINT.

    On the first signal it takes no more mail, finishes what is in flight and exits with 0; on a
    second one it exits at once. Neither loses mail. With `workers` in `[agent]` it supervises so
    many processes.
    """
    settings = settings_for(config_path)
    start_log(log_level)
    look_seldom()
    allow_connections()
    on_ready = _print_ports if as_json else None
    agent = settings.agent
    if agent.workers > 1 or find_left_over(agent.data_dir, agent.workers):
        from agent.workers import parent

        launch = _launch(settings, config_path_of(config_path), log_level)
        uvloop.run(parent.run(settings, launch, on_ready=on_ready))
    else:
        # Loaded here, for a parent has no use for it.
        from agent import worker

        uvloop.run(worker.run(settings, on_ready=on_ready))


def allow_connections() -> None:
    """Use all the open files that the host grants; the usual 1024 are fewer than our sockets."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Some systems grant less than they say; the agent runs with what there is.
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _launch(settings: Settings, config_path: str | None, log_level: str) -> Launch:
    # As it is now: a worker that is started anew later works by the same as the others.
    config = Path(config_path).read_bytes() if config_path is not None else None
    # A name that is made up is made up once.
    environment = {**os.environ, "PENSTOCK_AGENT_NAME": settings.agent.name}
    return Launch(config=config, environment=environment, log_level=log_level)


def _print_ports(ports: Ports) -> None:
    click.echo(json.dumps(asdict(ports)))
