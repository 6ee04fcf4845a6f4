"""Refusals: how often clients were told no, by class of reply."""

from dataclasses import dataclass


@dataclass(slots=True)
class Refusals:
    """Counted over all clients, of SMTP and gRPC, since the start."""

    #: Replies 4xx: to be tried again.
    transient: int = 0
    #: Replies 5xx.
    permanent: int = 0

    def count(self, reply: str) -> None:
        """Count a reply to a client, if it is a refusal."""
        match reply[:1]:
            case "4":
                self.transient += 1
            case "5":
                self.permanent += 1

    def by_class(self) -> dict[str, float]:
        """For metrics."""
        return {"4xx": self.transient, "5xx": self.permanent}
