"""`penstock-agent queue`: look into a running agent's queues, and hold, bounce or move mail."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, TypeVar

import click
import grpc

from agent.cli import queue_text as text
from agent.cli.config import config_option, settings_for
from agent.errors import AgentError
from agent.setting_values import parse_duration
from penstock.v1 import queue_service_pb2 as pb
from penstock.v1.queue_service_pb2_grpc import QueueServiceStub

_Command = TypeVar("_Command", bound=Callable[..., Any])
T = TypeVar("T")

_DEADLINE_SECONDS = 60.0
#: Moving a million messages takes a while.
_LONGEST_SECONDS = 3600.0
_PAGE = 1000

#: Options by the field of a request that they fill in.
_OPTIONS = {
    "queue_name": "--queue",
    "domain": "--domain",
    "routing_domain": "--routing-domain",
    "tenant": "--tenant",
    "campaign": "--campaign",
    "egress_source": "--source",
    "path_name": "--path",
    "all_mail": "--all",
}
_WAY = ("egress_source", "path_name")
_MEANING = {
    "queue_name": "One scheduled queue: campaign:tenant@domain!routing_domain.",
    "domain": "Mail to recipients of this domain.",
    "routing_domain": "Mail that goes to the MX hosts of this domain.",
    "tenant": "Mail of this tenant.",
    "campaign": "Mail of this campaign.",
    "egress_source": "Mail that would leave from this source.",
    "path_name": "Mail that would go over this egress path.",
    "all_mail": "All mail.",
}
_TARGETS = ("domain", "routing_domain", "tenant", "campaign")


class QueueCallFailed(AgentError):
    """The agent did not do what it was asked for."""


def agent_options(command: _Command) -> _Command:
    """Give *command* what says which agent is meant, and --json."""
    options = (
        click.option("--json", "as_json", is_flag=True, help="Print one JSON document."),
        click.option("--agent", default="", metavar="HOST:PORT", help="Default: listen.grpc."),
        config_option,
    )
    for option in options:
        command = option(command)
    return command


def selector_options(*fields: str) -> Callable[[_Command], _Command]:
    """Give a command options that select mail, as arguments named by *fields*."""

    def add(command: _Command) -> _Command:
        for field in reversed(fields):
            is_flag = field == "all_mail"
            command = click.option(
                _OPTIONS[field],
                field,
                help=_MEANING[field],
                **({"is_flag": True} if is_flag else {"default": "", "metavar": "NAME"}),
            )(command)
        return command

    return add


def _duration(context: click.Context, parameter: click.Parameter, value: str) -> timedelta:
    try:
        return parse_duration(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


duration_option = click.option(
    "--duration",
    default="5m",
    show_default=True,
    callback=_duration,
    help='From now on, such as "30m" or "2 hours".',
)
reason_option = click.option("--reason", default="", help="For people; a bounce tells it.")
silent_option = click.option(
    "--no-records",
    "suppress_records",
    is_flag=True,
    help="Leave the log and the policy server out.",
)
request_id_option = click.option(
    "--request-id", default="", metavar="TEXT", help="Given again, makes no second order."
)


@click.group()
def queue() -> None:
    """Look into a running agent's queues, and hold, bounce or move mail."""


@queue.command("list")
@selector_options("domain", "routing_domain", "tenant", "campaign")
@click.option("--limit", type=click.IntRange(1, 1_000_000), default=100, show_default=True,
              help="Most queues of each kind.")  # fmt: skip
@agent_options
def list_command(*, limit: int, **options: Any) -> None:
    """List scheduled queues, egress paths with their ready queues, and orders in force."""
    as_json = options.pop("as_json")

    async def ask(stub: Any) -> dict[str, Any]:
        selector = _selector(options)
        paths = await _pages(stub.ListReadyQueues, pb.ListReadyQueuesRequest, limit)
        orders = await _pages(stub.ListQueueOrders, pb.ListQueueOrdersRequest, limit)
        queues = await _pages(
            stub.ListScheduledQueues, pb.ListScheduledQueuesRequest, limit, selector=selector
        )
        return {
            "scheduled": [text.describe_scheduled(one) for one in queues],
            "ready": [text.describe_ready(one) for one in paths],
            "orders": [text.describe_order(one) for one in orders],
        }

    _answer(_call(options, ask), text.print_lists, as_json=as_json)


@queue.command("show")
@click.argument("name", metavar="MESSAGE_ID|QUEUE_NAME|PATH_NAME")
@agent_options
def show_command(*, name: str, **options: Any) -> None:
    """Say in plain words why a message, a scheduled queue or an egress path waits, until when."""
    as_json = options.pop("as_json")

    async def ask(stub: Any) -> dict[str, Any]:
        if "->" in name:
            return await _show_path(stub, name)
        try:
            message = await stub.GetMessage(
                pb.GetMessageRequest(message_id=name), timeout=_DEADLINE_SECONDS
            )
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                raise
            return await _show_queue(stub, name)
        return {"message": text.describe_message(message)}

    _answer(_call(options, ask), text.print_shown, as_json=as_json)


@queue.command("suspend")
@selector_options(*_OPTIONS)
@duration_option
@reason_option
@request_id_option
@agent_options
def suspend_command(**options: Any) -> None:
    """
    Hold mail, queued and arriving, without using attempts.

    The options that select mail are to be met together. The order holds on this agent alone, over
    restarts; `queue resume` ends it. With --source or --path other sources of a pool go on.
    """
    _give(options, lambda stub: stub.SuspendQueue, pb.SuspendQueueRequest)


@queue.command("bounce")
@selector_options(*(field for field in _OPTIONS if field not in _WAY))
@duration_option
@reason_option
@silent_option
@request_id_option
@agent_options
def bounce_command(**options: Any) -> None:
    """
    Bounce mail, queued and arriving, with 551 5.7.1; senders are not notified.

    The options that select mail are to be met together. What is queued is looked through once the
    order is given; `queue list` shows how much it bounced so far, `queue resume` ends it.
    """
    _give(options, lambda stub: stub.BounceQueue, pb.BounceQueueRequest)


@queue.command("resume")
@click.argument("order_id", metavar="ORDER", type=click.IntRange(1, 2**63 - 1))
@agent_options
def resume_command(*, order_id: int, **options: Any) -> None:
    """End an order of `queue suspend` or `queue bounce`; what it held goes at once."""
    as_json = options.pop("as_json")

    async def ask(stub: Any) -> dict[str, Any]:
        request = pb.ResumeQueueRequest(order_id=order_id)
        response = await stub.ResumeQueue(request, timeout=_DEADLINE_SECONDS)
        return {"ended": text.describe_order(response.order)}

    _answer(_call(options, ask), text.print_ended, as_json=as_json)


@queue.command("rebind")
@selector_options(*(field for field in _OPTIONS if field not in _WAY))
@click.option("--to-domain", metavar="NAME", help="Domain of the new queue.")
@click.option("--to-routing-domain", metavar="NAME", help='New routing domain; "": none.')
@click.option("--to-tenant", metavar="NAME", help='New tenant; "": none.')
@click.option("--to-campaign", metavar="NAME", help='New campaign; "": none.')
@click.option("--flush", "always_flush", is_flag=True, help="Make due what stays where it is, too.")
@reason_option
@silent_option
@agent_options
def rebind_command(**options: Any) -> None:
    """
    Move queued mail to another scheduled queue, where it is due at once.

    Attempts and age are kept; retry intervals, pool and max_age are those of the new domain.
    """
    as_json = options.pop("as_json")
    given = {
        field: options[f"to_{field}"] for field in _TARGETS if options[f"to_{field}"] is not None
    }
    if not given and not options["always_flush"]:
        raise click.UsageError("nowhere to move to; give --to-domain or another --to-…, or --flush")

    async def ask(stub: Any) -> dict[str, Any]:
        request = pb.RebindQueueRequest(
            selector=_needed_selector(options),
            reason=options["reason"],
            always_flush=options["always_flush"],
            suppress_records=options["suppress_records"],
            **given,
        )
        response = await stub.RebindQueue(request, timeout=_LONGEST_SECONDS)
        return {"moved": response.moved_count, "unchanged": response.unchanged_count}

    _answer(_call(options, ask), text.print_moved, as_json=as_json)


def _give(options: dict[str, Any], method: Callable[[Any], Any], kind: Any) -> None:
    """Give an order."""
    as_json = options.pop("as_json")

    async def ask(stub: Any) -> dict[str, Any]:
        request = kind(
            request_id=options["request_id"],
            selector=_needed_selector(options),
            reason=options["reason"],
            duration=options["duration"],
        )
        if "suppress_records" in options:
            request.suppress_records = options["suppress_records"]
        response = await method(stub)(request, timeout=_DEADLINE_SECONDS)
        return {"order": text.describe_order(response.order)}

    _answer(_call(options, ask), text.print_given, as_json=as_json)


async def _show_path(stub: Any, name: str) -> dict[str, Any]:
    request = pb.ListReadyQueuesRequest(path_name=name)
    response = await stub.ListReadyQueues(request, timeout=_DEADLINE_SECONDS)
    if not response.queues:
        raise QueueCallFailed(f"{name}: no such path is in use; `queue list` shows those that are")
    return {"path": text.describe_ready(response.queues[0])}


async def _show_queue(stub: Any, name: str) -> dict[str, Any]:
    request = pb.ListScheduledQueuesRequest(selector=pb.QueueSelector(queue_name=name))
    try:
        response = await stub.ListScheduledQueues(request, timeout=_DEADLINE_SECONDS)
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.INVALID_ARGUMENT:
            raise
        response = pb.ListScheduledQueuesResponse()
    if not response.queues:
        raise QueueCallFailed(
            f"{name}: no message with this id is queued here, and no scheduled queue of this name "
            "holds mail"
        )
    return {"queue": text.describe_scheduled(response.queues[0])}


async def _pages(method: Any, request: Any, limit: int, **fields: Any) -> list[Any]:
    """At most *limit* entries of a list, of however many pages."""
    found: list[Any] = []
    token = ""
    while len(found) < limit:
        size = min(_PAGE, limit - len(found))
        page = await method(
            request(page_size=size, page_token=token, **fields), timeout=_DEADLINE_SECONDS
        )
        # The one repeated field of each list.
        found += page.orders if isinstance(page, pb.ListQueueOrdersResponse) else page.queues
        token = page.next_page_token
        if not token:
            break
    return found


def _needed_selector(options: dict[str, Any]) -> pb.QueueSelector:
    """What is selected, which must be something. Errors: `click.UsageError`."""
    selector = _selector(options)
    if not selector.ListFields():
        names = ", ".join(_OPTIONS[field] for field in _OPTIONS if field in options)
        raise click.UsageError(f"no mail is selected; give one or more of {names}")
    return selector


def _selector(options: dict[str, Any]) -> pb.QueueSelector:
    return pb.QueueSelector(**{field: options[field] for field in _OPTIONS if field in options})


def _call(options: dict[str, Any], ask: Callable[[Any], Awaitable[T]]) -> T:
    """Ask the agent that is meant. Errors: `QueueCallFailed`, `click.UsageError`."""
    target = options["agent"] or str(settings_for(options["config_path"]).listen.grpc)

    async def run() -> T:
        async with grpc.aio.insecure_channel(target) as channel:
            return await ask(QueueServiceStub(channel))

    try:
        return asyncio.run(run())
    except grpc.aio.AioRpcError as error:
        raise _failure(error, target) from None


def _failure(error: grpc.aio.AioRpcError, target: str) -> Exception:
    said = error.details() or error.code().name
    match error.code():
        case grpc.StatusCode.INVALID_ARGUMENT:
            return click.UsageError(_in_options(said))
        case grpc.StatusCode.UNAVAILABLE if "connect" in said:
            return QueueCallFailed(f"no agent answers at {target}; is it running?")
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return QueueCallFailed(f"the agent at {target} took too long to answer")
        case grpc.StatusCode.UNIMPLEMENTED:
            return QueueCallFailed(f"what listens at {target} is no agent that can do this")
        case _:
            return QueueCallFailed(said)


def _in_options(said: str) -> str:
    """The options' names in place of the fields'."""
    parts = []
    for part in said.split("; "):
        field, colon, mistake = part.partition(": ")
        known = _OPTIONS.get(field.removeprefix("selector."))
        if known and not field.startswith("selector."):
            known = f"--to-{field.replace('_', '-')}"
        elif field in ("duration", "reason", "request_id"):
            known = f"--{field.replace('_', '-')}"
        parts.append(f"{known}: {mistake}" if known and colon else part)
    return "; ".join(parts)


def _answer(
    document: dict[str, Any], show: Callable[[dict[str, Any]], None], *, as_json: bool
) -> None:
    if as_json:
        click.echo(json.dumps(document))
    else:
        show(document)
