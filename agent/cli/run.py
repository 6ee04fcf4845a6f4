"""`penstock-agent run`: run the agent until SIGTERM or SIGINT."""

import contextlib
import json
import resource
from dataclasses import asdict

import click
import uvloop

from agent import worker
from agent.cli.config import config_option, settings_for
from agent.cli.log_format import start_log


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
    second one it exits at once. Neither loses mail.
    """
    settings = settings_for(config_path)
    start_log(log_level)
    _allow_connections()
    uvloop.run(worker.run(settings, on_ready=_print_ports if as_json else None))


def _allow_connections() -> None:
    """Use all the open files that the host grants; the usual 1024 are fewer than our sockets."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Some systems grant less than they say; the agent runs with what there is.
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _print_ports(ports: worker.Ports) -> None:
    click.echo(json.dumps(asdict(ports)))
