"""
`penstock-agent`: the command line of the delivery agent.

stdout is the answer, stderr is for people. Exit status 0: done; 1: refused or failed; 2: usage.
"""

import os
import sys
from collections.abc import Sequence

import click

from agent.cli.check import check
from agent.cli.config import config_option, use_config
from agent.cli.inject import inject
from agent.cli.queue import queue
from agent.cli.run import run
from agent.cli.sink import sink
from agent.errors import AgentError


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="penstock", prog_name="penstock-agent")
@config_option
@click.pass_context
def commands(context: click.Context, config_path: str | None) -> None:
    """
    Take mail in, keep it safe, and deliver it within the limits of the policy server.

    Without --config the defaults hold: loopback only, data under var/agent/. Every key of the
    configuration has an override in the environment, PENSTOCK_<SECTION>_<KEY>, such as
    PENSTOCK_LISTEN_SMTP; lists are separated by commas, PENSTOCK_SOURCE and PENSTOCK_POOL are JSON.
    """
    use_config(context, config_path)


for command in (run, check, inject, queue, sink):
    commands.add_command(command)


def _find_mistake(arguments: Sequence[str]) -> str:
    """Say which argument no call, file or terminal could take; empty if none."""
    for argument in arguments:
        try:
            argument.encode()
        except UnicodeEncodeError:
            shown = os.fsencode(argument).decode(errors="backslashreplace")
            return f"an argument is not UTF-8: {shown}"
    return ""


def main() -> None:
    """Run the command line; what the user can mend is said without a traceback."""
    if mistake := _find_mistake(sys.argv[1:]):
        click.echo(f"penstock-agent: {mistake}", err=True)
        sys.exit(2)
    try:
        commands(prog_name="penstock-agent")
    except (AgentError, OSError) as error:
        for line in str(error).splitlines():
            click.echo(f"penstock-agent: {line}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
