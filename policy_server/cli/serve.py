"""
penstock-server serve: run the policy server until told to stop.
"""

import asyncio
import gc
import importlib
from collections.abc import Callable
from typing import Any

import click

from policy_server.cli.log_format import start_log
from policy_server.cli.session import ENVIRONMENT_HELP, Session, config_option
from policy_server.server import run_server
from policy_server.settings import Settings

#: grpcio (1.80) leaves three objects in a cycle behind each call, where it looks for the handler,
#: and the collector alone frees them: often, as a few thousand take a millisecond and tens of
#: thousands hold up all calls meanwhile. Older objects are looked at seldom: each message to a
#: stream makes a few that are soon gone and are in no cycle, and with the defaults those of every
#: stream are gone through again and again while many are sent.
_GC_THRESHOLDS = (2_000, 500, 50)


@click.command(epilog=ENVIRONMENT_HELP)
@config_option
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="Least severity that is logged.",
)
@click.pass_obj
def serve(session: Session, log_level: str) -> None:
    """
    Run the policy server until SIGTERM or SIGINT.

    It creates and migrates its SQLite database itself. On the first signal it ends what it is
    doing and exits with 0; on a second one it exits at once.
    """
    settings = session.settings()
    start_log(log_level)
    gc.set_threshold(*_GC_THRESHOLDS)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_serve(settings))


async def _serve(settings: Settings) -> None:
    def announce(grpc_address: str, http_address: str) -> None:
        click.echo(f"listening grpc={grpc_address} http={http_address}")

    await run_server(settings, announce=announce)


def _loop_factory() -> Callable[[], Any] | None:
    """Choose uvloop where it is installed; it answers more questions a second."""
    try:
        factory: Callable[[], Any] = importlib.import_module("uvloop").new_event_loop
    except ImportError:
        return None
    return factory
