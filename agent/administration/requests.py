"""
Requests: what an operator asks for, read from the wire and checked. Every mistake is told at once.
"""

from collections.abc import Callable, Sequence

from agent.dispatch.rebinding import Rebinding
from agent.errors import BadRequest
from agent.orders.order import NewOrder, OrderKind, QueueScope
from agent.queue.names import label_mistake, parse_queue_name
from agent.smtp.addresses import normalise_domain
from penstock.v1 import queue_service_pb2 as pb

_DEFAULT_SECONDS = 300.0
_LONGEST_SECONDS = 366 * 86_400.0
_LONGEST_REASON = 1000
_LONGEST_ID = 255
_PAGE_SIZE, _LARGEST_PAGE = 100, 1000

_DOMAINS = ("domain", "routing_domain")
_LABELS = ("tenant", "campaign")
_WAY = ("egress_source", "path_name")


class _Mistakes:
    """What is wrong with a request, by field."""

    def __init__(self) -> None:
        self.found: list[tuple[str, str]] = []

    def add(self, field: str, mistake: str) -> None:
        self.found.append((field, mistake))

    def read(self, field: str, read: Callable[[str], str], text: str) -> str:
        """What *read* makes of *text*; its ValueError is a mistake of the field."""
        try:
            return read(text)
        except ValueError as error:
            self.add(field, f"{text!r}: {error}")
            return ""

    def check(self) -> None:
        """Errors: `BadRequest`, if anything is wrong."""
        if self.found:
            raise BadRequest(self.found)


def read_order(
    request: pb.SuspendQueueRequest | pb.BounceQueueRequest, *, kind: OrderKind, now: float
) -> NewOrder:
    """The order that is asked for at *now*. Errors: `BadRequest`."""
    mistakes = _Mistakes()
    scope = _read_scope(request.selector, mistakes, with_way=kind is OrderKind.SUSPEND)
    seconds = _DEFAULT_SECONDS
    if request.HasField("duration"):
        seconds = request.duration.seconds + request.duration.nanos / 1e9
        if not 0 < seconds <= _LONGEST_SECONDS:
            mistakes.add("duration", "must be longer than zero and at most 366 days")
    if len(request.request_id) > _LONGEST_ID:
        mistakes.add("request_id", f"must have at most {_LONGEST_ID} characters")
    reason = _read_reason(request.reason, mistakes)
    mistakes.check()
    return NewOrder(
        kind=kind,
        scope=scope,
        reason=reason,
        create_time=now,
        expire_time=now + seconds,
        is_silent=isinstance(request, pb.BounceQueueRequest) and request.suppress_records,
        request_id=request.request_id,
    )


def read_rebinding(request: pb.RebindQueueRequest) -> tuple[QueueScope, Rebinding]:
    """Which mail is to move, and where to. Errors: `BadRequest`."""
    mistakes = _Mistakes()
    scope = _read_scope(request.selector, mistakes, with_way=False)
    parts: dict[str, str] = {}
    for name in (*_DOMAINS, *_LABELS):
        if not request.HasField(name):
            continue
        text = getattr(request, name)
        read = _read_domain if name in _DOMAINS else _read_label
        parts[name] = mistakes.read(name, read, text) if text or name == "domain" else ""
    if not parts and not request.always_flush:
        mistakes.add(
            "domain",
            "name a domain, routing_domain, tenant or campaign to move to, or always_flush",
        )
    reason = _read_reason(request.reason, mistakes)
    mistakes.check()
    rebinding = Rebinding(
        domain=parts.get("domain"),
        routing_domain=parts.get("routing_domain"),
        tenant=parts.get("tenant"),
        campaign=parts.get("campaign"),
        always_flush=request.always_flush,
        is_silent=request.suppress_records,
        reason=reason,
    )
    return scope, rebinding


def read_filter(selector: pb.QueueSelector) -> QueueScope:
    """The queues that a list is to show; an empty selector: every one. Errors: `BadRequest`."""
    if not any(getattr(selector, part) for part in QueueScope._fields):
        return QueueScope()
    mistakes = _Mistakes()
    scope = _read_scope(selector, mistakes, with_way=True)
    mistakes.check()
    return scope._replace(egress_source="", path_name="")


def read_page(names: Sequence[str], *, size: int, token: str) -> tuple[Sequence[str], str]:
    """
    The names of a page of sorted *names*, and the token of the next; empty: it is the last.
    Errors: `BadRequest`.
    """
    if token and not token.startswith("after:"):
        raise BadRequest([("page_token", "is none that this call gave")])
    after = token.removeprefix("after:")
    left = [name for name in names if name > after] if token else list(names)
    page = left[: min(size or _PAGE_SIZE, _LARGEST_PAGE)]
    return page, f"after:{page[-1]}" if len(page) < len(left) else ""


def _read_scope(selector: pb.QueueSelector, mistakes: _Mistakes, *, with_way: bool) -> QueueScope:
    readers: dict[str, Callable[[str], str]] = {
        "queue_name": _read_queue_name,
        **dict.fromkeys(_DOMAINS, _read_domain),
        **dict.fromkeys(_LABELS, _read_label),
        **dict.fromkeys(_WAY, str),
    }
    parts = {name: text for name in readers if (text := getattr(selector, name))}
    scope = QueueScope(
        **{
            name: mistakes.read(f"selector.{name}", readers[name], text)
            for name, text in parts.items()
        }
    )
    if not parts and not selector.all_mail:
        mistakes.add("selector", "names nothing; set all_mail if all mail is meant")
    if parts and selector.all_mail:
        mistakes.add("selector.all_mail", f"contradicts {', '.join(parts)}; leave it out")
    for name in _WAY:
        if name in parts and not with_way:
            mistakes.add(
                f"selector.{name}",
                "mail has no source or path before it is sent; name its domain, tenant or campaign",
            )
    return scope


def _read_queue_name(text: str) -> str:
    return str(parse_queue_name(text))


def _read_domain(text: str) -> str:
    return normalise_domain(text)


def _read_label(text: str) -> str:
    if mistake := label_mistake(text):
        raise ValueError(mistake)
    return text


def _read_reason(text: str, mistakes: _Mistakes) -> str:
    if len(text) > _LONGEST_REASON or not text.isprintable():
        mistakes.add(
            "reason", f"must be one line of printable text, at most {_LONGEST_REASON} characters"
        )
    return text
