"""
The last known site of each domain that a rolled-up rule names.

It stays in force while the DNS is silent; that is why it is kept at all.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, select

from policy_server.rules.site import MxHost, Site
from policy_server.store.rows import insert_or, plain_columns, read_json, read_rows, read_time
from policy_server.store.tables import sites

# SQLite takes few parameters for one statement.
_DOMAINS_AT_ONCE = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSite:
    """A domain's last known site and when its MX answer ends."""

    site: Site
    expires_at: datetime


def load_sites(connection: Connection) -> dict[str, StoredSite]:
    """Load every known site, by domain."""
    rows = map(_to_stored, read_rows(connection, sites, order_by=("domain",)))
    return {stored.site.domain: stored for stored in rows if stored is not None}


def load_sites_of(connection: Connection, domains: Iterable[str]) -> dict[str, StoredSite | None]:
    """Load the sites of these domains; None for one that is not known."""
    found: dict[str, StoredSite | None] = dict.fromkeys(domains)
    wanted = sorted(found)
    for start in range(0, len(wanted), _DOMAINS_AT_ONCE):
        some = wanted[start : start + _DOMAINS_AT_ONCE]
        statement = select(*plain_columns(connection, sites)).where(sites.c.domain.in_(some))
        for row in connection.execute(statement):
            found[row.domain] = _to_stored(dict(row._mapping))
    return found


def save_sites(connection: Connection, stored: Iterable[StoredSite]) -> None:
    """Keep these sites in the place of what was known of their domains."""
    rows = [_to_row(item) for item in stored]
    if not rows:
        return
    statement = insert_or(connection, sites)
    # One statement, as several servers may learn of a domain at the same time.
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=[sites.c.domain],
            set_={name: statement.excluded[name] for name in rows[0] if name != "domain"},
        ),
        # In one order everywhere, so that two servers can't wait for each other.
        sorted(rows, key=lambda row: str(row["domain"])),
    )


def _to_row(stored: StoredSite) -> dict[str, Any]:
    hosts = stored.site.mx_hosts
    return {
        "domain": stored.site.domain,
        "site_name": stored.site.site_name,
        "mx_hosts": [{"host": host.host, "preference": host.preference} for host in hosts],
        "expires_at": stored.expires_at,
    }


def _to_stored(row: dict[str, Any]) -> StoredSite | None:
    """Read a row; None if it makes no sense, in which case the DNS is asked anew."""
    try:
        hosts = read_json(row["mx_hosts"])
        expires_at = read_time(row["expires_at"])
        mx_hosts = tuple(
            MxHost(host=str(host["host"]), preference=int(host["preference"])) for host in hosts
        )
    except (ValueError, TypeError, KeyError):
        return None
    if expires_at is None:
        return None
    site = Site(domain=row["domain"], site_name=row["site_name"], mx_hosts=mx_hosts)
    return StoredSite(site=site, expires_at=expires_at)
