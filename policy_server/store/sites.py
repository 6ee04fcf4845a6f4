"""
The last known site of each domain that a rolled-up rule names.

It stays in force while the DNS is silent; that is why it is kept at all.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, delete, insert

from policy_server.rules.site import MxHost, Site
from policy_server.store.rows import read_json, read_rows, read_time
from policy_server.store.tables import sites


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSite:
    """A domain's last known site and when its MX answer ends."""

    site: Site
    expires_at: datetime


def load_sites(connection: Connection) -> dict[str, StoredSite]:
    """Load every known site, by domain."""
    rows = map(_to_stored, read_rows(connection, sites, order_by=("domain",)))
    return {stored.site.domain: stored for stored in rows if stored is not None}


def save_sites(connection: Connection, stored: Iterable[StoredSite]) -> None:
    """Keep these sites in the place of what was known of their domains."""
    for item in stored:
        values = {
            "site_name": item.site.site_name,
            "mx_hosts": [
                {"host": host.host, "preference": host.preference} for host in item.site.mx_hosts
            ],
            "expires_at": item.expires_at,
        }
        known = connection.execute(
            sites.update().where(sites.c.domain == item.site.domain).values(values)
        )
        if not known.rowcount:
            connection.execute(insert(sites).values(domain=item.site.domain, **values))


def forget_sites(connection: Connection, domains: Iterable[str]) -> None:
    """Forget the sites of these domains."""
    for domain in domains:
        connection.execute(delete(sites).where(sites.c.domain == domain))


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
