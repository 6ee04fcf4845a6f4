"""What `penstock-agent queue` prints: queues, messages and orders as JSON and for people."""

import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import click
from google.protobuf.timestamp_pb2 import Timestamp
from rich import box
from rich.console import Console
from rich.table import Table

from penstock.v1 import queue_service_pb2 as pb

#: Wide enough for any row: what is piped is searched and cut by columns, so rows stay on a line.
_PIPE_COLUMNS = 2_000
_UNITS = ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def describe_scheduled(queue: pb.ScheduledQueue) -> dict[str, Any]:
    """One scheduled queue."""
    return {
        "name": queue.name,
        "domain": queue.domain,
        "routing_domain": queue.routing_domain,
        "tenant": queue.tenant,
        "campaign": queue.campaign,
        "scheduled": queue.scheduled_count,
        "due": queue.due_count,
        "ready": queue.ready_count,
        "oldest_time": _time(queue, "oldest_time"),
        "next_due_time": _time(queue, "next_due_time"),
        "waits": [_describe_wait(wait) for wait in queue.waits],
    }


def describe_ready(queue: pb.ReadyQueue) -> dict[str, Any]:
    """One path with its ready queue."""
    return {
        "path_name": queue.path_name,
        "egress_source": queue.egress_source,
        "site_name": queue.site_name,
        "provider_name": queue.provider_name,
        "queued": queue.queued_count,
        "in_flight": queue.in_flight_count,
        "waiting": queue.waiting_count,
        "connections": queue.connection_count,
        "limits": [
            {
                "option": limit.option,
                "name": limit.name,
                "value": limit.value,
                "in_use": limit.in_use_count,
            }
            for limit in queue.limits
        ],
        "max_ready": queue.max_ready,
        "oldest_time": _time(queue, "oldest_time"),
        "waits": [_describe_wait(wait) for wait in queue.waits],
        "last_reply": _describe_reply(queue),
        "delivered": queue.delivered_count,
        "transient": queue.transient_count,
        "bounced": queue.bounced_count,
        "connection_failures": queue.connection_failure_count,
    }


def describe_order(order: pb.QueueOrder) -> dict[str, Any]:
    """An operator's order."""
    selector = {
        field.name: value
        for field, value in order.selector.ListFields()
        if field.name != "all_mail" or value
    }
    return {
        "id": order.id,
        "kind": _word(pb.QueueOrderKind, order.kind, "QUEUE_ORDER_KIND_"),
        "selector": selector,
        "reason": order.reason,
        "create_time": _time(order, "create_time"),
        "expire_time": _time(order, "expire_time"),
        "suppress_records": order.suppress_records,
        "bounced": order.bounced_count,
    }


def describe_message(message: pb.GetMessageResponse) -> dict[str, Any]:
    """A message without its body."""
    return {
        "message_id": message.message_id,
        "sender": message.sender,
        "arrival_time": _time(message, "arrival_time"),
        "size": message.size,
        "tenant": message.tenant,
        "campaign": message.campaign,
        "reception_protocol": message.reception_protocol,
        "entries": [
            {
                "queue_name": entry.queue_name,
                "state": _word(pb.EntryState, entry.state, "ENTRY_STATE_"),
                "recipients": list(entry.recipients),
                "attempts": entry.attempt_count,
                "due_time": _time(entry, "due_time"),
                "expire_time": _time(entry, "expire_time"),
                "path_name": entry.path_name,
                "waits": [_describe_wait(wait) for wait in entry.waits],
                "last_reply": _describe_reply(entry),
            }
            for entry in message.entries
        ],
    }


def print_lists(document: Mapping[str, Any]) -> None:
    """Print what `queue list` found."""
    console = _open_console()
    queues = _table(
        "scheduled queue", "scheduled", "due", "ready", "oldest", "next due", "waits for"
    )
    for queue in document["scheduled"]:
        queues.add_row(
            _plain(queue["name"]),
            *(str(queue[count]) for count in ("scheduled", "due", "ready")),
            _age(queue["oldest_time"]),
            _age(queue["next_due_time"]),
            _plain(_waits_line(queue["waits"])),
        )
    paths = _table("egress path", "queued", "in flight", "waiting", "connections", "limits",
                   "waits for", "last reply")  # fmt: skip
    for path in document["ready"]:
        paths.add_row(
            _plain(path["path_name"]),
            *(str(path[count]) for count in ("queued", "in_flight", "waiting", "connections")),
            _plain(_limits_line(path["limits"])),
            _plain(_waits_line(path["waits"])),
            _plain(_reply_line(path["last_reply"])),
        )
    orders = _table("order", "kind", "mail", "ends", "bounced", "reason")
    for order in document["orders"]:
        orders.add_row(
            str(order["id"]),
            order["kind"],
            _plain(_selector_line(order["selector"])),
            _age(order["expire_time"]),
            str(order["bounced"]) if order["kind"] == "bounce" else "",
            _plain(order["reason"]),
        )
    for title, table in (("queues", queues), ("paths", paths), ("orders", orders)):
        if table.row_count:
            console.print(table)
        else:
            click.echo(f"no {title}", err=True)


def print_shown(document: Mapping[str, Any]) -> None:
    """Print what `queue show` found, in plain words."""
    if message := document.get("message"):
        _print_message(message)
    elif queue := document.get("queue"):
        counts = f"{queue['scheduled']} scheduled, {queue['due']} due, {queue['ready']} ready"
        click.echo(f"queue {queue['name']}: {counts}; the oldest came {_age(queue['oldest_time'])}")
        elsewhere = "nothing but its path; what that waits for: penstock-agent queue list"
        _print_waits(queue["waits"], otherwise=elsewhere)
    else:
        path = document["path"]
        click.echo(
            f"path {path['path_name']}: {path['queued']} queued, {path['in_flight']} in flight, "
            f"{path['waiting']} waiting for room; {path['connections']} connections"
        )
        click.echo(f"  limits: {_limits_line(path['limits'])}")
        _print_waits(path["waits"], otherwise="nothing keeps its mail")
        if path["last_reply"]:
            click.echo(f"  last reply: {_reply_line(path['last_reply'])}")


def print_given(document: Mapping[str, Any]) -> None:
    """Print an order that was given."""
    order = document["order"]
    verb = "holds" if order["kind"] == "suspend" else "bounces"
    click.echo(
        f"order {order['id']} {verb} mail of {_selector_line(order['selector'])}; it ends "
        f"{_age(order['expire_time'])}, or with: penstock-agent queue resume {order['id']}"
    )


def print_ended(document: Mapping[str, Any]) -> None:
    """Print an order that was ended."""
    order = document["ended"]
    click.echo(f"order {order['id']} has ended ({order['kind']} of "
               f"{_selector_line(order['selector'])})")  # fmt: skip


def print_moved(document: Mapping[str, Any]) -> None:
    """Print how much has moved."""
    click.echo(f"{document['moved']} moved, {document['unchanged']} were there already")


def _print_message(message: Mapping[str, Any]) -> None:
    owner = "".join(f", {name} {message[name]}" for name in ("tenant", "campaign") if message[name])
    click.echo(
        f"message {message['message_id']} from <{message['sender']}>, {message['size']} bytes, "
        f"came {_age(message['arrival_time'])} by {message['reception_protocol']}{owner}"
    )
    for entry in message["entries"]:
        state = entry["state"].replace("_", " ")
        place = f" on {entry['path_name']}" if entry["path_name"] else ""
        click.echo(f"{entry['queue_name']}: {state}{place}, after {entry['attempts']} attempts")
        _print_waits(entry["waits"], otherwise="nothing keeps it")
        if entry["last_reply"]:
            click.echo(f"  last reply: {_reply_line(entry['last_reply'])}")
        click.echo(f"  given up: {_age(entry['expire_time'])}")
        click.echo(f"  to do: {', '.join(entry['recipients'])}")


def _print_waits(waits: Iterable[Mapping[str, Any]], *, otherwise: str) -> None:
    lines = [_wait_line(wait) for wait in waits] or [otherwise]
    for line in lines:
        click.echo(f"  why: {line}")


def _describe_wait(wait: pb.QueueWait) -> dict[str, Any]:
    return {
        "reason": _word(pb.WaitReason, wait.reason, "WAIT_REASON_"),
        "text": wait.text,
        "end_time": _time(wait, "end_time"),
        "id": wait.id or None,
        "egress_source": wait.egress_source,
    }


def _describe_reply(holder: pb.ReadyQueue | pb.MessageEntry) -> dict[str, Any] | None:
    if not holder.HasField("last_reply"):
        return None
    reply = holder.last_reply
    enhanced = reply.response.enhanced_code
    numbers = (getattr(enhanced, "class"), enhanced.subject, enhanced.detail)
    has_code = reply.response.HasField("enhanced_code")
    return {
        "code": reply.response.code,
        "enhanced_code": ".".join(map(str, numbers)) if has_code else None,
        "content": reply.response.content,
        "command": reply.response.command or None,
        "internal": reply.internal,
        "event_time": _time(reply, "event_time"),
        "host": reply.host or None,
    }


def _wait_line(wait: Mapping[str, Any]) -> str:
    return f"{wait['text']} ({_age(wait['end_time'])})" if wait["end_time"] else str(wait["text"])


def _waits_line(waits: Iterable[Mapping[str, Any]]) -> str:
    return "; ".join(map(_wait_line, waits))


def _limits_line(limits: Iterable[Mapping[str, Any]]) -> str:
    return ", ".join(
        f"{limit['option']}{'.' + limit['name'] if limit['name'] else ''} {limit['value']}"
        for limit in limits
    )


def _reply_line(reply: Mapping[str, Any] | None) -> str:
    if reply is None:
        return ""
    codes = f"{reply['code']} {reply['enhanced_code'] or ''}".strip()
    who = reply["host"] or "this agent"
    return f"{codes} {reply['content']} ({who}, {_age(reply['event_time'])})"


def _selector_line(selector: Mapping[str, Any]) -> str:
    if selector.get("all_mail"):
        return "everybody"
    return ", ".join(f"{name} {value}" for name, value in selector.items())


def _word(enum: Any, value: int, prefix: str) -> str:
    return str(enum.Name(value)).removeprefix(prefix).lower()


def _time(message: Any, field: str) -> str | None:
    if not message.HasField(field):
        return None
    at: Timestamp = getattr(message, field)
    text = at.ToDatetime(UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


def _age(time: str | None) -> str:
    """How far from now, such as "in 5 min" or "2 h ago", with the time itself."""
    if time is None:
        return ""
    at = datetime.fromisoformat(time)
    seconds = (at - datetime.now(UTC)).total_seconds()
    number, unit = next(
        (int(abs(seconds) // length), name)
        for length, name in _UNITS
        if abs(seconds) >= length or length == 1
    )
    distance = f"in {number} {unit}" if seconds >= 0 else f"{number} {unit} ago"
    return f"{distance}, {at:%Y-%m-%d %H:%M:%S} UTC"


def _open_console() -> Console:
    return Console() if sys.stdout.isatty() else Console(width=_PIPE_COLUMNS)


def _table(*headings: str) -> Table:
    table = Table(box=box.SIMPLE, pad_edge=False, collapse_padding=True)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table


def _plain(text: str) -> str:
    """Keep brackets from being read as mark-up."""
    return text.replace("[", r"\[")
