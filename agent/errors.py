"""
The agent's errors, by what the caller can do about them.

    AgentError
    ├── SettingsError            fix the configuration
    ├── PortUnavailable          fix the configuration, or end what has the port (OSError)
    ├── SpoolRefused             fix the host: another agent has it, or another version made it
    ├── SpoolConflict            a mistake of ours: the change does not fit what is stored
    ├── SpoolUnavailable         try later (OSError)
    ├── PolicyUnavailable        try later (ConnectionError)
    ├── OrdersUnavailable        operators' orders can't be read or stored; mend the disk (OSError)
    ├── QueueRefusal             an operator's request is not carried out
    │   ├── BadRequest           correct the request
    │   ├── NotHere              there is no such message or order
    │   ├── TooManyOrders        end some first
    │   ├── NotReady             try again soon: the agent has only just started
    │   └── RebindUnderWay       try again when the other one is done
    ├── DispatchFailed           a mistake of ours: start the agent anew, the mail is on disk
    ├── WorkersFailed            fix what the workers say
    └── Refusal                  a message, or part of its envelope, is not taken
        ├── TryLater             the sender tries again: the agent protects itself
        ├── OverLimit            the sender makes it smaller
        ├── BadSender            the sender corrects the envelope
        ├── BadRecipient
        └── BadContent           the sender corrects the message
"""

from collections.abc import Sequence


class AgentError(Exception):
    """Something the agent could not do."""

    def __init__(self, message: str = "") -> None:
        super().__init__(message or (type(self).__doc__ or "").strip())


class SettingsError(AgentError):
    """The configuration has mistakes."""

    def __init__(self, mistakes: Sequence[str]) -> None:
        #: Every mistake, one line each, with its place and remedy.
        self.mistakes = tuple(mistakes)
        super().__init__("\n".join(self.mistakes))


class PortUnavailable(AgentError, OSError):
    """A port can't be listened on."""


class SpoolRefused(AgentError):
    """The spool can't be opened as things are."""


class SpoolConflict(AgentError):
    """The change does not fit what the spool holds."""


class SpoolUnavailable(AgentError, OSError):
    """The spool can't be read or written now; try again later."""


class PolicyUnavailable(AgentError, ConnectionError):
    """The policy server can't be asked now, and nothing is known from before."""


class OrdersUnavailable(AgentError, OSError):
    """The orders of operators can't be read or stored now."""


class QueueRefusal(AgentError):
    """The request is not carried out."""


class BadRequest(QueueRefusal):
    """The request has mistakes."""

    def __init__(self, violations: Sequence[tuple[str, str]]) -> None:
        #: Fields at fault, and what is wrong with each.
        self.violations = tuple(violations)
        super().__init__("; ".join(f"{field}: {mistake}" for field, mistake in self.violations))


class NotHere(QueueRefusal):
    """There is no such message or order."""


class TooManyOrders(QueueRefusal):
    """No further order can be taken."""


class NotReady(QueueRefusal):
    """The agent has only just started; try again soon."""


class RebindUnderWay(QueueRefusal):
    """Other mail is being moved."""


class DispatchFailed(AgentError):
    """An error ended delivery; the mail is safe on disk."""


class WorkersFailed(AgentError):
    """None of the agent's workers could start; each has said why."""


class Refusal(AgentError):
    """The message is not taken."""

    code = 554
    enhanced_code = "5.0.0"

    def __init__(
        self, text: str, *, field: str = "", code: int | None = None, enhanced_code: str = ""
    ) -> None:
        super().__init__(text)
        #: For people; one line, without the codes.
        self.text = text
        #: The part of the request at fault, such as `recipients[2]`; empty: none.
        self.field = field
        self.code = code or self.code
        self.enhanced_code = enhanced_code or self.enhanced_code

    @property
    def reply(self) -> str:
        """The SMTP reply line, without its line end."""
        return f"{self.code} {self.enhanced_code} {self.text}"


class TryLater(Refusal):
    """The agent protects itself; the sender should try again."""

    code = 451
    enhanced_code = "4.3.0"


class OverLimit(Refusal):
    """The message is larger, or has more recipients, than the agent takes."""

    code = 552
    enhanced_code = "5.3.4"


class BadSender(Refusal):
    """The envelope sender is no address."""

    code = 553
    enhanced_code = "5.1.7"


class BadRecipient(Refusal):
    """An envelope recipient is no address that mail can be sent to."""

    code = 553
    enhanced_code = "5.1.3"


class BadContent(Refusal):
    """The message itself, its tenant or its campaign can't be taken."""

    code = 554
    enhanced_code = "5.6.0"
