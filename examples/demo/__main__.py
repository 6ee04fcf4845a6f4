"""
Run the demo: `python -m examples.demo`. Exit status 0 only if every promise was held.
"""

import asyncio
import contextlib
import dataclasses
import json
import signal
import sys
import time
from pathlib import Path
from typing import Any

import aiohttp
import click
import grpc
from rich.console import Console
from rich.live import Live

from agent.spool.sqlite import SqliteSpool
from examples.demo.layout import RULES, DemoError, Layout, claim, plan_layout
from examples.demo.load import Injected, inject, plan_messages
from examples.demo.processes import Processes, run_program
from examples.demo.reckoning import Facts, merge_accepted, reckon
from examples.demo.view import build_counts, build_findings, build_line, build_table
from examples.demo.watch import Watch
from penstock.v1.automation_service_pb2 import ACTION_KIND_SUSPEND

_MOST_SECONDS = 88.0
_LOOK_SECONDS = 0.5
_LINE_SECONDS = 2.0
#: Time that ending all programs and reckoning may take.
_CLOSING_SECONDS = 6.0
_SEED = 2026


class Stage:
    """Where the run is, shown at intervals until the run is over."""

    def __init__(self, console: Console) -> None:
        """Show on *console*."""
        self.console = console
        self.phase = "starting"
        self.started = time.monotonic()

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started

    def say(self, phase: str) -> None:
        """Enter the next phase."""
        self.phase = phase
        self.console.print(f"{self.elapsed:5.1f}s {phase}", highlight=False)


async def run_demo(directory: Path, *, messages: int, seconds: float) -> int:
    """Run everything; the exit status."""
    with claim(directory):
        return await _run_in(directory, messages=messages, seconds=seconds)


async def _run_in(directory: Path, *, messages: int, seconds: float) -> int:
    stage = Stage(_console())
    layout = plan_layout(directory, seconds=seconds)
    async with Processes(layout.directory) as processes:
        layout = await _start_programs(layout, processes, stage)
        injected = Injected()
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as http,
            grpc.aio.insecure_channel(f"127.0.0.1:{layout.server_grpc}") as channel,
        ):
            watch = Watch(layout, http, channel)
            showing = asyncio.create_task(_show(watch, stage))
            try:
                plan = plan_messages(messages, seed=_SEED)
                stage.say(f"injecting {messages} messages by SMTP and gRPC into both agents")
                await inject(plan, layout.agents, injected, seconds=seconds * 0.45)
                stage.say(f"injected {injected.by_smtp} by SMTP and {injected.by_rpc} by gRPC")
                await _drain(watch, stage, injected, processes)
            finally:
                showing.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await showing
            await watch.look()
        stage.say("ending the programs")
        names = (*(agent.name for agent in layout.agents), "server", "sink")
        ended = {name: await processes.stop(name) for name in names}
    queued = set()
    for agent in layout.agents:
        queued |= await queued_recipients(layout.path(agent.name))
    return _summarise(layout, watch, injected, stage, queued=queued, ended=ended)


async def _start_programs(layout: Layout, processes: Processes, stage: Stage) -> Layout:
    stage.say(f"starting the simulated providers, logs in {layout.directory}")
    sink_config = layout.write("sink.toml", to="sink.toml")
    report = str(layout.path("report.json"))
    await processes.start(
        "sink", "penstock-agent", "sink", "--config", str(sink_config), "--report", report, "--json"
    )
    places = await processes.first_line("sink", seconds=20)
    layout = dataclasses.replace(
        layout,
        dns=places["dns"],
        sink_http=places["http"],
        smtp_ports={
            name: int(listening[0].rpartition(":")[2])
            for name, listening in places["providers"].items()
        },
    )
    server_config = layout.write("server.toml", to="server.toml")
    async with aiohttp.ClientSession() as http:
        stage.say("starting the policy server")
        layout.path("server").mkdir()
        await processes.start("server", "penstock-server", "serve", "--config", str(server_config))
        server = f"http://127.0.0.1:{layout.server_http}"
        await processes.wait_for_page(http, f"{server}/healthz")
        stage.say("importing the rules")
        files = (str(RULES), str(layout.write_ports_layer()))
        await run_program(
            "penstock-server", ("rules", "import", "--config", str(server_config), *files)
        )
        await processes.wait_for_page(http, f"{server}/readyz")
        stage.say("starting two agents")
        for agent in layout.agents:
            config = layout.write("agent.toml", to=f"{agent.name}.toml", agent=agent)
            await processes.start(agent.name, "penstock-agent", "run", "--config", str(config))
        for agent in layout.agents:
            await processes.wait_for_page(http, f"http://127.0.0.1:{agent.http}/readyz")
    return layout


async def _show(watch: Watch, stage: Stage) -> None:
    """Keep looking, and show what there is."""
    if not stage.console.is_terminal:
        last = 0.0
        while True:
            await watch.look()
            if time.monotonic() - last >= _LINE_SECONDS:
                last = time.monotonic()
                line = build_line(watch.views, phase=stage.phase, elapsed=stage.elapsed)
                sys.stdout.write(line + "\n")
                sys.stdout.flush()
            await asyncio.sleep(_LOOK_SECONDS)
    with Live(console=stage.console, refresh_per_second=4) as live:
        while True:
            await watch.look()
            table = build_table(watch.views, phase=stage.phase, elapsed=stage.elapsed)
            live.update(table)
            await asyncio.sleep(_LOOK_SECONDS)


async def _drain(watch: Watch, stage: Stage, injected: Injected, processes: Processes) -> None:
    """Wait until everything is delivered or bounced, or time is up."""
    stage.say("waiting until everything is delivered or bounced")
    expected = len(injected.messages)
    while stage.elapsed < _MOST_SECONDS - _CLOSING_SECONDS:
        processes.check()
        if watch.settled >= expected and not watch.queued and not watch.suspended_now:
            return
        await asyncio.sleep(_LOOK_SECONDS)
    stage.say("time is up")


def _console() -> Console:
    # Where output goes to a file, lines are not folded at the 80 columns that rich then assumes.
    return Console() if sys.stdout.isatty() else Console(width=110)


def _summarise(
    layout: Layout,
    watch: Watch,
    injected: Injected,
    stage: Stage,
    *,
    queued: set[str],
    ended: dict[str, int],
) -> int:
    report = json.loads(layout.path("report.json").read_text())
    by_recipient = {m.recipient: key for key, m in injected.messages.items()}
    seen = watch.seen
    facts = Facts(
        injected=injected.messages,
        not_taken=len(injected.refused),
        accepted=merge_accepted({n: p["accepted"] for n, p in report["providers"].items()}),
        bounced={
            by_recipient.get(recipient, recipient)
            for agent in layout.agents
            for recipient in bounced_recipients(layout.path(agent.name) / "log")
        },
        queued={by_recipient.get(recipient, recipient) for recipient in queued},
        report=report,
        sources={agent.source for agent in layout.agents},
        suspended=seen.suspended,
        lifted=seen.lifted,
        pushed_back=seen.pushed_back,
        suspended_in_ledger={
            action.egress_source
            for action in seen.actions.values()
            if action.kind == ACTION_KIND_SUSPEND
        },
        ended=ended,
        seconds=stage.elapsed,
        most_seconds=_MOST_SECONDS + 2,
    )
    findings = reckon(facts)
    stage.console.print(build_counts(report))
    stage.console.print(build_findings(findings))
    return 0 if all(finding.holds for finding in findings) else 1


async def queued_recipients(directory: Path) -> set[str]:
    """Recipients that the spool of a stopped agent still holds."""
    spool = await SqliteSpool.open(directory)
    try:
        messages = [await spool.load(entry.id) for entry in await spool.entries()]
    finally:
        await spool.close()
    return {recipient for message in messages if message for recipient in message.recipients}


def bounced_recipients(log: Path) -> set[str]:
    """Recipients that the delivery log under *log* says have bounced or expired."""
    found: set[str] = set()
    for path in sorted(log.glob("*.jsonl")):
        for line in path.read_text().splitlines():
            record = json.loads(line)
            if record["type"] in ("Bounce", "Expiration", "AdminBounce"):
                recipients = record["recipient"]
                found.update([recipients] if isinstance(recipients, str) else recipients)
    return found


@click.command()
@click.option("--messages", default=3000, show_default=True, help="How many to inject.")
@click.option(
    "--seconds", default=50.0, show_default=True, help="About how long it shall take; at most 60."
)
@click.option(
    "--directory",
    default=Path("var/demo"),
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Where to keep the files of the run; emptied first.",
)
def main(messages: int, seconds: float, directory: Path) -> None:
    """Run the main job on loopback and check that every promise was held."""
    try:
        status = asyncio.run(
            _until_signalled(run_demo(directory, messages=messages, seconds=seconds))
        )
    except (DemoError, OSError) as error:
        click.echo(str(error), err=True)
        status = 1
    sys.exit(status)


async def _until_signalled(work: Any) -> int:
    """Run *work*; a signal cancels it, so that its programs are ended."""
    task = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, task.cancel)
    try:
        async with asyncio.timeout(_MOST_SECONDS):
            status: int = await task
            return status
    except TimeoutError as error:
        raise DemoError(f"not over after {_MOST_SECONDS:g} s") from error
    except asyncio.CancelledError as error:
        raise DemoError("interrupted") from error


if __name__ == "__main__":
    main()
