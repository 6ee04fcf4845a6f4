"""
The book that several servers keep together in Valkey; its client is not always installed.
"""

from policy_server.errors import InvalidSettings
from policy_server.lending.port import LimitStore
from policy_server.limits.spec import LeaseTiming
from policy_server.metrics import ServerMetrics
from policy_server.store.database import Database
from policy_server.store.shared_leases import SharedLeases


def build_shared_store(
    url: str,
    database: Database,
    *,
    server: str,
    address: str,
    timing: LeaseTiming,
    metrics: ServerMetrics,
) -> LimitStore:
    """
    Build the part of *server*, which is reached at *address*, in the book at *url*. Errors:
    InvalidSettings.
    """
    try:
        from policy_server.shared_book.store import SharedLimitStore
        from policy_server.shared_book.valkey import Valkey
    except ImportError as error:
        raise InvalidSettings(
            [
                f'limits.state: "{url}" needs the client of Valkey and Redis, which is not '
                "installed: install penstock[valkey], or the package redis"
            ]
        ) from error
    return SharedLimitStore(
        Valkey(url, metrics=metrics),
        SharedLeases(database),
        server=server,
        address=address,
        timing=timing,
        metrics=metrics,
    )
