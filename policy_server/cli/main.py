"""
penstock-server: the commands of the policy server.

Exit status: 0 done, 1 refused or failed, 2 wrong usage.
"""

import os
import sys
from collections.abc import Sequence

import click

from policy_server.cli.actions import actions
from policy_server.cli.agents import agents
from policy_server.cli.check import check
from policy_server.cli.explain import explain
from policy_server.cli.limits import limits
from policy_server.cli.log_format import start_log
from policy_server.cli.migrate import migrate
from policy_server.cli.rules import rules
from policy_server.cli.serve import serve
from policy_server.cli.session import Session, config_option
from policy_server.errors import PolicyServerError

_FAILED = 1
_MISUSED = 2


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="penstock", prog_name="penstock-server")
@config_option
@click.pass_context
def cli(context: click.Context) -> None:
    """Answer how mail may leave, from rules in SQL."""
    context.ensure_object(Session)
    if context.invoked_subcommand != serve.name:
        # Its own option says from what severity on; of the others only what is odd is told.
        start_log("warning")


for _command in (serve, migrate, check, explain, rules, actions, agents, limits):
    cli.add_command(_command)


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit status."""
    if mistake := _find_mistake(arguments):
        click.echo(f"penstock-server: {mistake}", err=True)
        return _MISUSED
    try:
        status = cli.main(list(arguments), prog_name="penstock-server", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        return _FAILED
    except PolicyServerError as error:
        for line in str(error).splitlines():
            click.echo(f"penstock-server: {line}", err=True)
        return _FAILED
    except BrokenPipeError:
        # The reader of our output went away; that is its business.
        sys.stderr.close()
        return _FAILED
    except OSError as error:
        # A directory that can't be made, a disk that is full: the system says which.
        click.echo(f"penstock-server: {error}", err=True)
        return _FAILED
    except KeyboardInterrupt:
        return _FAILED
    return status if isinstance(status, int) else 0


def _find_mistake(arguments: Sequence[str]) -> str:
    """Say which argument no database, call or terminal could take; empty if none."""
    for argument in arguments:
        try:
            argument.encode()
        except UnicodeEncodeError:
            shown = os.fsencode(argument).decode(errors="backslashreplace")
            return f"an argument is not UTF-8: {shown}"
    return ""


def main() -> None:
    """Run the command line of this process."""
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
