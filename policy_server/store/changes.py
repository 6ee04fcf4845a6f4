"""
Which rows changed since a revision, so that only those are read again.
"""

from dataclasses import dataclass

from sqlalchemy import Connection, select

from policy_server.store.revisions import is_known_since, read_newest, read_stamp
from policy_server.store.tables import change_log

#: With more changed rows than this, reading everything is no slower.
_MOST_ROWS = 20_000
_PARTS = frozenset({"rule_blocks", "rule_options", "provider_matches", "automation_rules"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What changed up to a revision."""

    revision: int
    #: Of that revision, see `read_stamp`.
    stamp: str = ""
    #: False: it is not known what changed, or too much did.
    is_known: bool = True
    #: Whether the database was put back to, or replaced by, one that has another past.
    is_other_past: bool = False
    #: Blocks that changed themselves, or in their parts.
    blocks: frozenset[int] = frozenset()
    has_layers: bool = False
    #: Domains whose site changed.
    domains: frozenset[str] = frozenset()

    @property
    def is_empty(self) -> bool:
        """Whether rules and sites are as they were."""
        return self.is_known and not (self.blocks or self.has_layers or self.domains)


def read_changes_since(connection: Connection, since: int, *, stamp: str | None = None) -> Changes:
    """
    Read which rules and sites changed after revision *since*.

    *stamp* is what that revision had when it was read; None: unknown.
    """
    revision, newest = read_newest(connection)
    if revision == since and stamp in (None, newest):
        return Changes(revision=revision, stamp=newest)
    is_same = stamp is None or read_stamp(connection, since) == stamp
    is_other_past = revision < since or not is_same
    if is_other_past or revision == since or not is_known_since(connection, since):
        # Another database was put in the place of the one we knew, or the log begins later.
        return Changes(revision=revision, stamp=newest, is_known=False, is_other_past=is_other_past)
    log = change_log.c
    statement = (
        select(log.table_name, log.row_id, log.row_name)
        .where(log.revision > since, log.table_name.in_([*_PARTS, "rule_layers", "sites"]))
        .distinct()
        .limit(_MOST_ROWS + 1)
    )
    rows = connection.execute(statement).all()
    # Sites that were logged before their names were can't be told apart.
    is_known = len(rows) <= _MOST_ROWS and all(
        row.row_name for row in rows if row.table_name == "sites"
    )
    return Changes(
        revision=revision,
        stamp=newest,
        is_known=is_known,
        blocks=frozenset(row.row_id for row in rows if row.table_name in _PARTS),
        has_layers=any(row.table_name == "rule_layers" for row in rows),
        domains=frozenset(row.row_name for row in rows if row.table_name == "sites"),
    )
