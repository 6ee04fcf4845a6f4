"""`penstock-agent check`: say before `run` what would stand in its way."""

import asyncio
import json
import os
import socket
import sys
from dataclasses import asdict, dataclass
from ipaddress import ip_address

import click
import dns.asyncresolver
import dns.exception
import dns.resolver
import grpc

from agent.cli.config import config_option, settings_for
from agent.errors import SettingsError, SpoolRefused, SpoolUnavailable
from agent.leases.host import find_machine
from agent.policy.channel import open_channel
from agent.settings import Settings
from agent.smtp.certificate import load_context
from agent.spool.look import look_at_spool
from agent.spool.verify import verify_spool
from agent.workers.place import find_shards, shard_dir

_SERVER_SECONDS = 3.0
_MARKS = {"ok": "ok     ", "warning": "warning", "error": "error  "}


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found out about one thing."""

    #: "configuration", "data_dir", "spool", "machine", "listen", "tls", "source", "policy_server"
    #: or "dns".
    what: str
    #: "ok", "warning" (the agent runs, and copes) or "error" (it would not run, or not send).
    level: str
    text: str


@click.command()
@config_option
@click.option("--spool", "verifies", is_flag=True,
              help="Read all of the spool; tell what is damaged, and what to do.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def check(config_path: str | None, verifies: bool, as_json: bool) -> None:
    """
    Check the configuration and what it names; change nothing. An agent may be running.

    Exit status 1 if something would stop the agent. A policy server or a DNS server that does not
    answer is a warning: the agent starts without them and uses what it last knew.
    """
    settings = settings_for(config_path)
    findings = [Finding("configuration", "ok", config_path or "defaults and environment")]
    findings += asyncio.run(_look_into(settings, verifies=verifies))
    failed = any(finding.level == "error" for finding in findings)
    if as_json:
        click.echo(json.dumps({"ok": not failed, "findings": [asdict(one) for one in findings]}))
    else:
        for finding in findings:
            click.echo(f"{_MARKS[finding.level]}  {finding.what}: {finding.text}")
    sys.exit(1 if failed else 0)


async def _look_into(settings: Settings, *, verifies: bool) -> list[Finding]:
    directory = _check_directory(settings)
    findings = [directory]
    if directory.level == "ok":
        findings += [_check_spool(settings, number) for number in _shards(settings)]
    if verifies:
        findings += [
            found for number in _shards(settings) for found in _verify_spool(settings, number)
        ]
    findings.append(_check_machine(settings))
    findings += _check_openness(settings)
    findings += _check_certificate(settings)
    findings += [_check_source(name, settings) for name in settings.sources]
    findings += await asyncio.gather(_check_server(settings), _check_dns(settings))
    return findings


def _check_directory(settings: Settings) -> Finding:
    directory = settings.agent.data_dir
    # The agent makes what is missing, so what is there must let it.
    place = next(one for one in (directory, *directory.absolute().parents) if os.path.exists(one))
    if not place.is_dir():
        return Finding("data_dir", "error", f"{directory}: can't be made: {place} is a file")
    if not os.access(place, os.W_OK | os.X_OK):
        return Finding("data_dir", "error", f"{directory}: {place} can't be written to")
    missing = "" if place == directory else ", to be made by the first run"
    return Finding("data_dir", "ok", f"{directory}{missing}")


def _shards(settings: Settings) -> list[int]:
    """The numbers of all spools that the agent has or would make."""
    return sorted({*range(settings.agent.workers), *find_shards(settings.agent.data_dir)})


def _named(number: int, text: str) -> str:
    return f"worker-{number}: {text}" if number else text


def _check_spool(settings: Settings, number: int) -> Finding:
    try:
        spool = look_at_spool(shard_dir(settings.agent.data_dir, number))
    except (SpoolRefused, SpoolUnavailable) as error:
        return Finding("spool", "error", str(error))
    if not spool.exists:
        return Finding("spool", "ok", _named(number, "none yet, to be made by the first run"))
    if spool.is_in_use:
        return Finding("spool", "ok", _named(number, "an agent is running on this spool"))
    return Finding("spool", "ok", _named(number, f"opens; {spool.entries} queued"))


def _verify_spool(settings: Settings, number: int) -> list[Finding]:
    try:
        damages = verify_spool(shard_dir(settings.agent.data_dir, number))
    except (SpoolRefused, SpoolUnavailable) as error:
        return [Finding("spool", "error", str(error))]
    if not damages:
        whole = "whole: every row and every body is as it was stored"
        return [Finding("spool", "ok", _named(number, whole))]
    return [
        Finding(
            "spool",
            "error" if one.is_error else "warning",
            _named(number, f"{one.text}; {one.remedy}"),
        )
        for one in damages
    ]


def _check_machine(settings: Settings) -> Finding:
    machine = find_machine(settings.agent.machine, environ=os.environ)
    if machine is None:
        text = "nothing names it: after a crash limits wait for what the run before may use"
        return Finding("machine", "warning", f"{text}; set agent.machine")
    if machine.lasts:
        return Finding("machine", "ok", f"known by {machine.source}")
    text = "a container, or without /etc/machine-id: known until it is booted anew"
    return Finding("machine", "ok", f"{text}, unless agent.machine names it")


def _check_openness(settings: Settings) -> list[Finding]:
    address = settings.listen.grpc
    if _is_loopback(address.host):
        return []
    text = (
        f"grpc = {address}: nobody has to say who he is there: whoever reaches it can inject mail"
        " and change queues, whatever relay_from says; keep it on loopback or behind a firewall"
    )
    return [Finding("listen", "warning", text)]


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check_certificate(settings: Settings) -> list[Finding]:
    files = settings.listen.certificate_files
    if files is None:
        return []
    try:
        load_context(files)
    except SettingsError as error:
        return [Finding("tls", "error", str(error))]
    return [Finding("tls", "ok", f"STARTTLS with {files.certificate}")]


def _check_source(name: str, settings: Settings) -> Finding:
    address = settings.sources[name].source_address
    if address is None:
        return Finding("source", "ok", f"{name}: the system chooses the address")
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind((address, 0))
    except OSError as error:
        text = f"{name}: {address} can't be bound: {error.strerror}"
        return Finding("source", "error", text)
    return Finding("source", "ok", f"{name}: {address}")


async def _check_server(settings: Settings) -> Finding:
    server = settings.policy.server
    channel = open_channel(server)
    try:
        async with asyncio.timeout(_SERVER_SECONDS):
            await channel.channel_ready()
    except (TimeoutError, grpc.aio.AioRpcError):
        return Finding("policy_server", "warning", f"{server} does not answer")
    finally:
        await channel.close()
    return Finding("policy_server", "ok", server)


async def _check_dns(settings: Settings) -> Finding:
    timeout = settings.dns.timeout.total_seconds()
    named = ", ".join(str(address) for address in settings.dns.nameservers)
    try:
        resolver = dns.asyncresolver.Resolver(configure=not named)
        if named:
            resolver.nameservers = [
                dns.nameserver.Do53Nameserver(address.host, address.port)
                for address in settings.dns.nameservers
            ]
        await resolver.resolve(".", "NS", lifetime=timeout, raise_on_no_answer=False)
    except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
        pass
    except dns.resolver.NoNameservers as error:
        # A server that refuses the root still answers; one that is away times out.
        if not any(problem[4] is not None for problem in error.kwargs.get("errors", ())):
            return Finding("dns", "warning", f"{named or 'system resolvers'}: no answer")
    except (dns.exception.DNSException, OSError) as error:
        return Finding("dns", "warning", f"{named or 'system resolvers'}: {error}")
    return Finding("dns", "ok", named or "system resolvers")
