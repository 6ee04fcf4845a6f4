"""The program of a worker process; its parent, `penstock-agent run`, starts it. Not for people."""

import json
import os
import sys
from dataclasses import asdict

import click
import uvloop

from agent import worker
from agent.cli.log_format import start_log
from agent.cli.run import allow_connections
from agent.collector import look_seldom
from agent.errors import AgentError
from agent.settings import load_settings
from agent.workers.child import place_of
from agent.workers.ready import Ports


def main() -> None:
    """Run the worker that the one argument describes."""
    order = json.loads(sys.argv[1])
    place = place_of(order)
    start_log(order["log_level"], worker=place.number)
    config = order["config"]
    settings = load_settings(None if config is None else f"/dev/fd/{config}")
    if config is not None:
        os.close(config)
    look_seldom()
    allow_connections()
    uvloop.run(worker.run(settings, place=place, on_ready=_tell_parent, lifeline=order["lifeline"]))


def _tell_parent(ports: Ports) -> None:
    click.echo(json.dumps(asdict(ports)))


if __name__ == "__main__":
    try:
        main()
    except (AgentError, OSError) as error:
        for line in str(error).splitlines():
            click.echo(f"penstock-agent worker: {line}", err=True)
        sys.exit(1)
