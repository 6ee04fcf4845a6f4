"""
Internal: the responses that the agent makes itself, where no peer replied.

Each is marked `internal`, so that automation leaves it alone unless a rule asks for such replies.
"""

from agent.delivery.record import Response, on_one_line


def _made(code: int, enhanced: tuple[int, int, int] | None, content: str) -> Response:
    return Response(code=code, enhanced_code=enhanced, content=on_one_line(content), internal=True)


#: RFC 7505: the domain takes no mail.
NULL_MX = _made(556, (5, 1, 10), "Recipient address has a null MX")
#: The domain has hosts, but none has an address that this source can reach.
NO_ADDRESSES = _made(451, (4, 4, 4), "MX didn't resolve to any hosts")
#: All that the MX leads to is left out on purpose.
ONLY_SKIPPED = _made(451, (4, 4, 4), "MX consisted solely of hosts on the skip_hosts list")
#: The path fails over and over.
TOO_MANY_FAILURES = _made(
    451,
    (4, 4, 1),
    "bulk delay of ready queue: too many successive connection failures where there was no "
    "answer from any hosts listed in MX",
)
#: The command was not sent, or its reply never came, for another recipient's sake.
NOT_ASKED = _made(451, (4, 4, 2), "the transaction ended before this recipient was settled")
#: A reply of a kind that does not fit its command.
UNEXPECTED_REPLY = _made(451, (4, 5, 0), "unexpected reply")
#: RFC 6152: 8-bit content needs the peer's word.
NEEDS_8BITMIME = _made(554, (5, 6, 3), "content is 8bit, destination does not support 8BITMIME")
#: RFC 6531: an envelope with other than ASCII needs the peer's word.
NEEDS_SMTPUTF8 = _made(554, (5, 6, 7), "envelope is 8bit, destination does not support SMTPUTF8")
#: The address can't be written into a command.
UNSENDABLE_ADDRESS = _made(553, (5, 1, 3), "the address can't be sent in an SMTP command")


def prohibited(address: str) -> Response:
    """The plan holds an address that must never be delivered to."""
    return _made(550, (5, 4, 4), f"{address} is on the list of prohibited_hosts")


def no_such_domain(domain: str) -> Response:
    """The routing domain does not exist (RFC 3463: bad destination system address)."""
    return _made(550, (5, 1, 2), f"MX lookup for {domain}: no such domain")


def lookup_failed(domain: str, reason: str) -> Response:
    """DNS gave no answer about the routing domain."""
    return _made(451, (4, 4, 4), f"MX lookup for {domain} failed: {reason}")


def policy_unavailable(path: str) -> Response:
    """Nothing is known about how the path may be used; the mail waits."""
    return _made(451, (4, 4, 4), f"policy for {path} is unavailable")


def not_named_by_policy(domain: str) -> Response:
    """Every MX host of the domain is one that its MTA-STS policy forbids (RFC 8461)."""
    return _made(
        451, (4, 4, 4), f"MTA-STS enforce policy for {domain} permits none of its MX hosts"
    )


def unreachable(failures: tuple[str, ...]) -> Response:
    """No candidate of the plan led to a usable session."""
    listed = ", ".join(failures[:10]) or "no candidates"
    return _made(400, None, f"failed to connect to any candidate hosts: {listed}")


def timed_out(command: str) -> Response:
    """The peer did not reply in time."""
    return Response(
        code=421,
        enhanced_code=(4, 4, 2),
        content=f"failed to send message: timed out waiting for the reply to {command}",
        command=command,
        internal=True,
    )


def stalled(phase: str, seconds: float) -> Response:
    """The session made no progress for too long, and was ended."""
    return _made(
        451,
        (4, 4, 1),
        f"dispatcher watchdog ended a session that made no progress; phase={phase or 'none'} "
        f"time_in_phase={seconds:.0f}s",
    )


def broken(command: str, reason: str) -> Response:
    """The connection broke, or what came over it was no SMTP."""
    content = on_one_line(f"failed to send message: {reason}")
    return Response(code=400, content=content, command=command, internal=True)


_BOUNCED = "Administrator bounced with reason:"


def bounced(reason: str) -> Response:
    """Somebody, or automation, has ordered that such mail bounces."""
    return _made(551, (5, 7, 1), f"{_BOUNCED} {reason or 'none given'}")


def is_ordered(response: Response) -> bool:
    """Whether a response is that of an order to bounce."""
    return response.internal and response.content.startswith(_BOUNCED)


def expired(age_seconds: float, max_age_seconds: float) -> Response:
    """The next attempt would come too late."""
    return _made(
        551,
        (5, 4, 7),
        f"Next delivery time would be {age_seconds:.0f}s after creation, which exceeds "
        f"max_age={max_age_seconds:.0f}s",
    )
