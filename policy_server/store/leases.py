"""
What of the lease book must outlive a server: whose book it is, and what it promised.

Every write names the epoch of its book and changes nothing if that is not the newest: a server
that lost the book can't write into its successor's. A book is *doubted* where what it promised may
be missing here, since the database was put back from a copy.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    BigInteger,
    BindParameter,
    ColumnElement,
    Connection,
    Row,
    Text,
    bindparam,
    cast,
    delete,
    func,
    literal,
    literal_column,
    select,
    update,
)

from policy_server.limits.messages import NOTHING_HELD, Holding, Promise
from policy_server.limits.spec import Earning, LimitSpec
from policy_server.store.rows import insert_or
from policy_server.store.tables import lease_book, lease_floors, lease_limits

_book, _limits, _floors = lease_book.c, lease_limits.c, lease_floors.c
_THE_BOOK = 1
_MOST_XID = (1 << 32) - 1
#: Of `lease_floors`, and so are they named in `Holding`.
HOLDING_COLUMNS = ("units", "floor", "incarnation")


@dataclass(frozen=True, slots=True, kw_only=True)
class BookRow:
    """Whose book it is."""

    epoch: int
    #: Empty: nobody's, it was given up in good order.
    owner: str
    #: Where the owner is reached.
    address: str
    #: Grows with each sign of life.
    renewals: int
    #: Of the proofs of grants.
    secret: str
    #: More may be out than is written down.
    is_doubted: bool
    #: It was not written here, but comes from a dump; never seen on SQLite.
    is_copied: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DurableLimit:
    """What was promised of a limit."""

    spec: LimitSpec
    #: No more is out, or than holdings come to, whichever is more.
    ceiling: int
    #: Events that were used of units which it has lost since, and not earned again.
    owed: int
    holdings: Mapping[str, Holding]


def read_book(connection: Connection) -> BookRow | None:
    """Read whose book it is; None: there never was one."""
    row = connection.execute(select(lease_book, _read_writer(connection))).first()
    if row is None:
        return None
    return BookRow(
        epoch=row.epoch,
        owner=row.owner,
        address=row.address,
        renewals=row.renewals,
        secret=row.secret,
        is_doubted=row.is_doubted,
        is_copied=row.written_by not in (0, row.writer),
    )


def name_writer(connection: Connection) -> dict[str, Any]:
    """State as a column of `lease_book` who writes the row; every write of it has to."""
    if connection.dialect.name != "postgresql":
        return {"written_by": 0}
    return {"written_by": func.txid_current().op("&")(cast(_MOST_XID, BigInteger))}


def _read_writer(connection: Connection) -> ColumnElement[int]:
    """Read which transaction did write it: of a row that was restored, the one that did that."""
    if connection.dialect.name != "postgresql":
        return literal(0).label("writer")
    # It has no number as a type, only as a text.
    return cast(cast(literal_column("xmin"), Text), BigInteger).label("writer")


def take_book(
    connection: Connection,
    known: BookRow | None,
    *,
    owner: str,
    address: str,
    secret: str,
    after: int = 0,
    is_doubted: bool = False,
) -> BookRow | None:
    """
    Take the book, if it still is as it is *known*, in an epoch above *after*; None: somebody was
    quicker. What is doubted stays so until somebody ends that.
    """
    if known is None:
        epoch = after + 1
        made = {
            "id": _THE_BOOK,
            "epoch": epoch,
            "owner": owner,
            "address": address,
            "renewals": 1,
            "secret": secret,
            "holdings_epoch": epoch,
            "is_doubted": is_doubted,
            **name_writer(connection),
        }
        insert = insert_or(connection, lease_book).values(made)
        # Of two servers that both found none, one makes it.
        inserted = connection.execute(insert.on_conflict_do_nothing().returning(_book.id)).first()
        return read_book(connection) if inserted else None
    epoch = max(known.epoch, after) + 1
    # One statement: a sign of life of the owner that comes before it is seen by it.
    taken = connection.execute(
        update(lease_book)
        .where(_book.epoch == known.epoch, _book.renewals == known.renewals)
        .values(
            epoch=epoch,
            owner=owner,
            address=address,
            renewals=_book.renewals + 1,
            is_doubted=known.is_doubted or is_doubted,
            **name_writer(connection),
        )
    )
    if not taken.rowcount:
        return None
    _distrust_holdings_of_others(connection, before=known.epoch)
    return read_book(connection)


def _distrust_holdings_of_others(connection: Connection, *, before: int) -> None:
    """Go by ceilings once more, if the last owner was of a version that keeps no holdings."""
    was_kept = connection.execute(
        update(lease_book).where(_book.holdings_epoch == before).values(holdings_epoch=_book.epoch)
    )
    if not was_kept.rowcount:
        connection.execute(update(lease_book).values(holdings_epoch=_book.epoch))
        connection.execute(
            update(lease_limits).where(_limits.has_holdings).values(has_holdings=False)
        )


def end_doubt(connection: Connection, *, epoch: int) -> None:
    """Whatever was lent before *epoch* is over, and nothing else counts any more."""
    connection.execute(
        update(lease_book)
        .where(_book.epoch == epoch, _book.is_doubted)
        .values(is_doubted=False, **name_writer(connection))
    )


def renew_book(connection: Connection, epoch: int) -> bool:
    """Give a sign of life; False: the book has gone to another server."""
    renewed = connection.execute(
        update(lease_book)
        .where(_book.epoch == epoch)
        .values(renewals=_book.renewals + 1, **name_writer(connection))
    )
    return bool(renewed.rowcount)


def give_up_book(connection: Connection, epoch: int) -> None:
    """Leave the book to whoever comes, if it still is ours."""
    connection.execute(
        update(lease_book)
        .where(_book.epoch == epoch)
        .values(owner="", renewals=_book.renewals + 1, **name_writer(connection))
    )


def read_promises(connection: Connection) -> dict[str, DurableLimit]:
    """Read all that was promised."""
    rows = list(connection.execute(select(lease_limits)))
    holdings = read_holdings(connection, rows)
    return {
        row.key: DurableLimit(
            spec=_read_spec(row.units, row.rate_count, row.rate_period_ns),
            ceiling=0 if row.has_holdings else row.ceiling,
            owed=row.owed,
            holdings=holdings.get(row.key, {}),
        )
        for row in rows
    }


def read_holdings(
    connection: Connection, limits: Sequence[Row[Any]], *, keys: Collection[str] | None = None
) -> dict[str, dict[str, Holding]]:
    """Read who may have what of *limits*; only of *keys*, where these are named."""
    # Where the ceiling is gone by, only floors are: what stands beside them may be outdated.
    is_whole = {row.key: row.has_holdings for row in limits}
    statement = select(lease_floors)
    if keys is not None:
        statement = statement.where(_floors.key.in_(keys))
    holdings: dict[str, dict[str, Holding]] = {}
    for row in connection.execute(statement):
        kept = is_whole.get(row.key, False)
        holding = Holding(
            units=row.units if kept else 0,
            floor=row.floor,
            incarnation=row.incarnation if kept else 0,
        )
        # Servers that keep a book together leave zeros where there is nothing any more.
        if holding.units or holding.floor:
            holdings.setdefault(row.key, {})[row.holder] = holding
    return holdings


def find_holders(connection: Connection, agent: str) -> list[str]:
    """Find who may have leases, of those whose names begin so."""
    statement = (
        select(_floors.holder)
        .where(_floors.holder.startswith(agent, autoescape=True))
        .where((_floors.units > 0) | (_floors.floor > 0))
        .distinct()
    )
    return list(connection.scalars(statement))


def keep_promises(connection: Connection, promises: Sequence[Promise], epoch: int) -> bool:
    """Write promises down; False, and nothing written: the book has gone to another server."""
    # It also locks the row, so that nobody takes the book while this is written.
    if not renew_book(connection, epoch):
        return False
    _save_limits(connection, [promise for promise in promises if not promise.is_over])
    _save_holdings(connection, promises)
    over = [{"over_key": promise.key} for promise in promises if promise.is_over]
    if over:
        key: BindParameter[str] = bindparam("over_key")
        connection.execute(delete(lease_limits).where(_limits.key == key), over)
    return True


def _save_limits(connection: Connection, promises: Sequence[Promise]) -> None:
    if not promises:
        return
    statement = insert_or(connection, lease_limits)
    new = statement.excluded
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=[_limits.key],
            set_={column.name: new[column.name] for column in _limits if column.name != "key"},
        ),
        [
            {
                "key": promise.key,
                "ceiling": promise.ceiling,
                "owed": promise.owed,
                "has_holdings": promise.is_whole,
                **write_spec(promise.spec),
            }
            for promise in promises
        ],
    )


def _save_holdings(connection: Connection, promises: Sequence[Promise]) -> None:
    kept = [
        {"key": promise.key, "holder": holder, **write_holding(holding)}
        for promise in promises
        for holder, holding in promise.holdings
        if holding != NOTHING_HELD
    ]
    gone = [
        {"gone_key": promise.key, "gone_holder": holder}
        for promise in promises
        for holder, holding in promise.holdings
        if holding == NOTHING_HELD
    ]
    if gone:
        key: BindParameter[str] = bindparam("gone_key")
        holder: BindParameter[str] = bindparam("gone_holder")
        connection.execute(
            delete(lease_floors).where(_floors.key == key, _floors.holder == holder), gone
        )
    if kept:
        statement = insert_or(connection, lease_floors)
        connection.execute(
            statement.on_conflict_do_update(
                index_elements=[_floors.key, _floors.holder],
                set_={name: statement.excluded[name] for name in HOLDING_COLUMNS},
            ),
            kept,
        )


def write_holding(holding: Holding) -> dict[str, int]:
    """State what an agent may have as columns of `lease_floors`."""
    return {name: getattr(holding, name) for name in HOLDING_COLUMNS}


def write_spec(spec: LimitSpec) -> dict[str, int | None]:
    """State a limit as columns of `lease_limits`."""
    earning = spec.earning
    return {
        "units": spec.units,
        "rate_count": None if earning is None else earning.count,
        "rate_period_ns": None if earning is None else earning.period_ns,
    }


def _read_spec(units: int, count: int | None, period_ns: int | None) -> LimitSpec:
    earning = None
    if count is not None and period_ns is not None:
        earning = Earning(count=count, period_ns=period_ns)
    return LimitSpec(units=units, earning=earning)
