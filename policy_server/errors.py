"""
Errors of the policy server, by what the caller can do.

    PolicyServerError
    ├── InvalidSettings      fix the configuration file or the environment
    ├── CannotListen         choose another address or end what uses it
    ├── InvalidRequest       fix the request
    ├── NotFound             the thing asked for does not exist
    │   └── DomainNotFound   the DNS says that the domain does not exist
    ├── Aborted              a race was lost or an exchange stalled: start again
    ├── Unavailable          try again later
    │   ├── RulesNotLoaded
    │   ├── DnsUnavailable
    │   ├── StoreUnavailable
    │   └── BookElsewhere    another server lends limits out
    ├── NotInForce           the action is over: put another one in force
    ├── StoreRefused         the database refused a statement
    └── WrongSchema          migrate the database

`policy_server.services.statuses` has the one table that turns them into gRPC statuses.
"""

from collections.abc import Sequence
from datetime import timedelta


class PolicyServerError(Exception):
    """Something went wrong in the policy server."""

    def __init__(self, message: str = "") -> None:
        super().__init__(message or (type(self).__doc__ or "").strip())


class InvalidSettings(PolicyServerError, ValueError):
    """The configuration has mistakes."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


class CannotListen(PolicyServerError, OSError):
    """The address can't be listened on."""


class InvalidRequest(PolicyServerError, ValueError):
    """The request has a mistake."""

    def __init__(
        self, message: str = "", *, field: str = "", violations: Sequence[tuple[str, str]] = ()
    ) -> None:
        super().__init__(message)
        self.field = field
        #: Every mistake of the request: (field, what is wrong).
        self.violations = tuple(violations) or ((field, str(self)),)


class NotFound(PolicyServerError, LookupError):
    """There is no such thing."""


class DomainNotFound(NotFound):
    """The domain does not exist."""


class Aborted(PolicyServerError):
    """The exchange was cut short; start it again."""


class Unavailable(PolicyServerError, ConnectionError):
    """The server can't answer now; try again."""

    def __init__(self, message: str = "", *, retry_delay: timedelta = timedelta(seconds=1)) -> None:
        super().__init__(message)
        self.retry_delay = retry_delay


class RulesNotLoaded(Unavailable):
    """The rules are not loaded yet; try again."""


class DnsUnavailable(Unavailable):
    """The DNS does not answer; try again."""


class StoreUnavailable(Unavailable):
    """The database can't be reached or is busy; try again."""


class BookElsewhere(Unavailable):
    """Another server keeps the book of limits, or none does yet; try there, or again."""


class NotInForce(PolicyServerError):
    """The action is not in force."""


class StoreRefused(PolicyServerError):
    """The database refused a statement."""


class WrongSchema(PolicyServerError):
    """The database has another schema than this version needs; run penstock-server migrate."""
