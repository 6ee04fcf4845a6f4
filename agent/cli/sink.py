"""`penstock-agent sink`: run simulated mailbox providers and a DNS server for their domains."""

import asyncio
import json
import signal
import sys
from pathlib import Path

import click

from agent.sink.server import Sink
from agent.sink.settings import SinkSettings, load_sink_settings


@click.command()
@click.option(
    "--config",
    "config_path",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="TOML file with the providers; its format is described in agent/sink/settings.py.",
)
@click.option(
    "--report",
    "report_path",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write what the sink saw to this JSON file, at the end and on SIGUSR1.",
)
@click.option("--json", "as_json", is_flag=True, help="Print where it listens as JSON, one line.")
@click.option("--check", is_flag=True, help="Only check the configuration.")
def sink(config_path: Path, report_path: Path | None, as_json: bool, check: bool) -> None:
    """
    Run simulated mailbox providers, for tests and demonstrations.

    Each provider accepts mail on its own addresses by SMTP, throws it away, and counts what its
    clients do: connections at once, messages on a connection, messages per second. It refuses what
    goes over its limits, as real ones do, and can greylist, bounce, delay and push back. A small
    DNS server answers for the providers' domains.

    Prints where it listens and runs until SIGTERM or SIGINT.
    """
    settings = load_sink_settings(config_path)
    if check:
        click.echo(f"{config_path}: ok")
        return
    asyncio.run(_run(settings, report_path, as_json=as_json))


async def _run(settings: SinkSettings, report_path: Path | None, *, as_json: bool) -> None:
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    running = Sink(settings)
    async with running:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopped.set)
        if report_path is not None:
            loop.add_signal_handler(signal.SIGUSR1, running.write_report, report_path)
        _print_places(running, as_json=as_json)
        await _wait(stopped, running, report_path)
    if report_path is not None:
        running.write_report(report_path)


async def _wait(stopped: asyncio.Event, running: Sink, report_path: Path | None) -> None:
    interval = running.settings.sink.report_interval / 10**9
    if report_path is None or not interval:
        await stopped.wait()
        return
    while not stopped.is_set():
        try:
            async with asyncio.timeout(interval):
                await stopped.wait()
        except TimeoutError:
            running.write_report(report_path)


def _print_places(running: Sink, *, as_json: bool) -> None:
    providers = {
        name: [f"{host}:{port}" for host, port in places]
        for name, places in running.listening.items()
    }
    dns = running.dns.address if running.dns else None
    http = running.http.address if running.http else None
    if as_json:
        click.echo(json.dumps({"providers": providers, "dns": dns, "http": http}))
    else:
        for name, places in providers.items():
            click.echo(f"provider {name}: smtp {', '.join(places)}")
        for kind, place in (("dns", dns), ("http", http)):
            if place:
                click.echo(f"{kind}: {place}")
    sys.stdout.flush()
