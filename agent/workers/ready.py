"""What an agent says once it is ready."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """The ports that are listened on, as bound."""

    smtp: int
    grpc: int
    http: int
