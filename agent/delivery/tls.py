"""
TLS: what a session does about STARTTLS, as one table.

The mode comes from the path, what the peer offers from its EHLO reply. The handshake itself is
done elsewhere; its result comes back here.
"""

from dataclasses import dataclass
from enum import StrEnum


class TlsMode(StrEnum):
    """How strictly TLS is used, spelt as in rule files."""

    DISABLED = "Disabled"
    OPPORTUNISTIC = "Opportunistic"
    OPPORTUNISTIC_INSECURE = "OpportunisticInsecure"
    REQUIRED = "Required"
    REQUIRED_INSECURE = "RequiredInsecure"


class Handshake(StrEnum):
    """How far TLS has got on this connection."""

    #: EHLO is done, STARTTLS has not been sent.
    NOT_TRIED = "not tried"
    #: TLS is up, and the certificate is as good as the mode asks for.
    GOOD = "good"
    #: The handshake or the check of the certificate failed.
    FAILED = "failed"
    #: STARTTLS was refused, or took too long: no word about TLS itself.
    REFUSED = "refused"


class TlsStep(StrEnum):
    """What the session does next."""

    #: Go on without TLS.
    CLEAR = "clear"
    #: Send STARTTLS and shake hands.
    START = "start"
    #: Go on over TLS.
    USE = "use"
    #: Connect to the same address again and go on without TLS.
    CLEAR_AGAIN = "clear again"
    #: Give this candidate up.
    NEXT_HOST = "next host"


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What is known of this path's TLS."""

    #: A handshake failed not long ago (`remember_broken_tls`).
    is_broken: bool = False
    #: `opportunistic_tls_reconnect_on_failed_handshake`.
    may_reconnect: bool = False


VERIFIED = frozenset({TlsMode.OPPORTUNISTIC, TlsMode.REQUIRED})
OPPORTUNISTIC = frozenset({TlsMode.OPPORTUNISTIC, TlsMode.OPPORTUNISTIC_INSECURE})

#: (mode, offered, handshake) -> step. A failed handshake leaves the connection unusable, so to go
#: on in the clear means a new connection to the same address.
_STEPS: dict[tuple[TlsMode, bool, Handshake], TlsStep] = {
    (TlsMode.DISABLED, False, Handshake.NOT_TRIED): TlsStep.CLEAR,
    (TlsMode.DISABLED, True, Handshake.NOT_TRIED): TlsStep.CLEAR,
    (TlsMode.OPPORTUNISTIC, False, Handshake.NOT_TRIED): TlsStep.CLEAR,
    (TlsMode.OPPORTUNISTIC, True, Handshake.NOT_TRIED): TlsStep.START,
    (TlsMode.OPPORTUNISTIC, True, Handshake.GOOD): TlsStep.USE,
    (TlsMode.OPPORTUNISTIC, True, Handshake.FAILED): TlsStep.NEXT_HOST,
    (TlsMode.OPPORTUNISTIC, True, Handshake.REFUSED): TlsStep.NEXT_HOST,
    (TlsMode.OPPORTUNISTIC_INSECURE, False, Handshake.NOT_TRIED): TlsStep.CLEAR,
    (TlsMode.OPPORTUNISTIC_INSECURE, True, Handshake.NOT_TRIED): TlsStep.START,
    (TlsMode.OPPORTUNISTIC_INSECURE, True, Handshake.GOOD): TlsStep.USE,
    (TlsMode.OPPORTUNISTIC_INSECURE, True, Handshake.FAILED): TlsStep.CLEAR_AGAIN,
    (TlsMode.OPPORTUNISTIC_INSECURE, True, Handshake.REFUSED): TlsStep.NEXT_HOST,
    (TlsMode.REQUIRED, False, Handshake.NOT_TRIED): TlsStep.NEXT_HOST,
    (TlsMode.REQUIRED, True, Handshake.NOT_TRIED): TlsStep.START,
    (TlsMode.REQUIRED, True, Handshake.GOOD): TlsStep.USE,
    (TlsMode.REQUIRED, True, Handshake.FAILED): TlsStep.NEXT_HOST,
    (TlsMode.REQUIRED, True, Handshake.REFUSED): TlsStep.NEXT_HOST,
    (TlsMode.REQUIRED_INSECURE, False, Handshake.NOT_TRIED): TlsStep.NEXT_HOST,
    (TlsMode.REQUIRED_INSECURE, True, Handshake.NOT_TRIED): TlsStep.START,
    (TlsMode.REQUIRED_INSECURE, True, Handshake.GOOD): TlsStep.USE,
    (TlsMode.REQUIRED_INSECURE, True, Handshake.FAILED): TlsStep.NEXT_HOST,
    (TlsMode.REQUIRED_INSECURE, True, Handshake.REFUSED): TlsStep.NEXT_HOST,
}


def next_tls_step(mode: TlsMode, *, offered: bool, handshake: Handshake, memory: Memory) -> TlsStep:
    """Say what the session does about TLS."""
    if mode in OPPORTUNISTIC and memory.is_broken and handshake is Handshake.NOT_TRIED:
        return TlsStep.CLEAR
    step = _STEPS.get((mode, offered, handshake), TlsStep.NEXT_HOST)
    if handshake is Handshake.FAILED and mode in OPPORTUNISTIC and memory.may_reconnect:
        return TlsStep.CLEAR_AGAIN
    return step


def may_authenticate(
    *, is_encrypted: bool, is_verified: bool, allow_clear: bool, allow_unverified: bool
) -> bool:
    """Whether a password may be sent over this session."""
    if not is_encrypted:
        return allow_clear
    return is_verified or allow_unverified
