"""
What must outlive the book that several servers keep in Valkey: its epoch, and what they promised.

1. The book is in force in one epoch, and every write names its own: what a server writes in an
   epoch that is over changes nothing.
2. Several servers write what they promised in one epoch, in any order. Each promise has a number;
   an older one changes nothing of what a newer one has written.
3. The row says that the book is the servers' own together, or that somebody has yet to begin it.
   A server that keeps a book alone waits for as long as they give signs of life, and they for it.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from sqlalchemy import BindParameter, Connection, bindparam, delete, or_, select, update

from policy_server.limits.messages import Holding, NumberedPromise
from policy_server.store.database import Database
from policy_server.store.leases import (
    HOLDING_COLUMNS,
    BookRow,
    end_doubt,
    name_writer,
    read_book,
    read_holdings,
    take_book,
    write_holding,
    write_spec,
)
from policy_server.store.rows import insert_or
from policy_server.store.tables import lease_book, lease_floors, lease_limits

#: Whose book it is, in the place of one server's name.
TOGETHER, BEGINNING = "shared", "shared, not begun yet"

_book, _limits, _floors = lease_book.c, lease_limits.c, lease_floors.c


@dataclass(frozen=True, slots=True, kw_only=True)
class PromisedLimit:
    """What was promised of a limit, and in which epoch last; 0: by a server alone."""

    epoch: int
    #: Events that may have been used and not earned again: of all units, and what it owed.
    used: int
    ceiling: int
    holdings: Mapping[str, Holding]


class SharedLeases:
    """The tables of leases, as servers that keep a book together use them."""

    def __init__(self, database: Database) -> None:
        self.database = database

    async def read_book(self) -> BookRow | None:
        """Read whose book it is."""
        return await self.database.read(read_book)

    async def renew(self, epoch: int, *, address: str = "") -> int:
        """
        Give a sign of life, as the server at *address*; return how many there were, or 0: that
        epoch is over.
        """
        return await self.database.write(partial(renew_shared_book, epoch=epoch, address=address))

    async def take(
        self,
        known: BookRow | None,
        *,
        address: str,
        secret: str,
        after: int = 0,
        is_doubted: bool = False,
    ) -> BookRow | None:
        """
        Raise the epoch, at least above *after*, if the book still is as it is *known*; None:
        somebody was quicker. *is_doubted*: what is written down may be outdated.
        """
        return await self.database.write(
            partial(
                take_book,
                known=known,
                owner=BEGINNING,
                address=address,
                secret=secret,
                after=after,
                is_doubted=is_doubted,
            )
        )

    async def end_doubt(self, epoch: int) -> None:
        """Whatever was lent before *epoch* is over; nothing, if that is over itself."""
        await self.database.write(partial(end_doubt, epoch=epoch))

    async def mark_begun(self, epoch: int) -> bool:
        """Say that the book of an epoch can be used; False: the epoch is over."""
        return await self.database.write(partial(mark_shared_book_begun, epoch=epoch))

    async def has_older_than(self, epoch: int) -> bool:
        """Whether anything was promised before an epoch, and stands."""
        return await self.database.read(partial(has_promises_before, epoch=epoch))

    async def read(self, keys: Collection[str]) -> dict[str, PromisedLimit]:
        """Read what was promised of limits."""
        return await self.database.read(partial(read_promised_limits, keys=keys))

    async def keep(self, promises: Sequence[NumberedPromise], epoch: int) -> bool:
        """Write promises down; False, and nothing written: the epoch is over."""
        return await self.database.write(
            partial(keep_shared_promises, promises=promises, epoch=epoch)
        )


def renew_shared_book(connection: Connection, *, epoch: int, address: str = "") -> int:
    """
    Give a sign of life of the servers together, and say where one of them that lives is, if
    *address* does; return how many there were, or 0: that epoch is over.
    """
    renewed = connection.execute(
        update(lease_book)
        .where(_book.epoch == epoch, _book.owner == TOGETHER)
        .values(
            renewals=_book.renewals + 1,
            address=address or _book.address,
            **name_writer(connection),
        )
        .returning(_book.renewals)
    ).first()
    return int(renewed.renewals) if renewed is not None else 0


def mark_shared_book_begun(connection: Connection, *, epoch: int) -> bool:
    """Say that the book of an epoch can be used; False: the epoch is over."""
    marked = connection.execute(
        update(lease_book)
        .where(_book.epoch == epoch, _book.owner == BEGINNING)
        .values(owner=TOGETHER, renewals=_book.renewals + 1, **name_writer(connection))
    )
    return bool(marked.rowcount)


def has_promises_before(connection: Connection, *, epoch: int) -> bool:
    """Whether anything was promised before an epoch, and stands."""
    older = select(_limits.key).where(_limits.promise_epoch < epoch).limit(1)
    return connection.execute(older).first() is not None


def read_promised_limits(
    connection: Connection, *, keys: Collection[str]
) -> dict[str, PromisedLimit]:
    """Read what was promised of limits."""
    limits = list(connection.execute(select(lease_limits).where(_limits.key.in_(keys))))
    holdings = read_holdings(connection, limits, keys=keys)
    return {
        row.key: PromisedLimit(
            epoch=row.promise_epoch,
            used=row.units + row.owed,
            ceiling=0 if row.has_holdings else row.ceiling,
            holdings=holdings.get(row.key, {}),
        )
        for row in limits
    }


def keep_shared_promises(
    connection: Connection, *, promises: Sequence[NumberedPromise], epoch: int
) -> bool:
    """Write promises down; False, and nothing written: the epoch is over."""
    # It also locks the row, so that no epoch begins while this is written.
    if not renew_shared_book(connection, epoch=epoch):
        return False
    over = [one for one in promises if one.promise.is_over]
    _forget(connection, over, epoch)
    lasting = [one for one in promises if not one.promise.is_over]
    _save_limits(connection, lasting, epoch)
    _save_holdings(connection, lasting, epoch)
    return True


def _forget(connection: Connection, promises: Sequence[NumberedPromise], epoch: int) -> None:
    if not promises:
        return
    key: BindParameter[str] = bindparam("over_key")
    number: BindParameter[int] = bindparam("over_number")
    rows = [{"over_key": one.promise.key, "over_number": one.number} for one in promises]
    for columns, table in ((_limits, lease_limits), (_floors, lease_floors)):
        is_older = (columns.promise_epoch < epoch) | (columns.promise_number < number)
        connection.execute(delete(table).where(columns.key == key, is_older), rows)


def _save_limits(connection: Connection, promises: Sequence[NumberedPromise], epoch: int) -> None:
    if not promises:
        return
    statement = insert_or(connection, lease_limits)
    new = statement.excluded
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=[_limits.key],
            set_={column.name: new[column.name] for column in _limits if column.name != "key"},
            where=or_(
                _limits.promise_epoch < new["promise_epoch"],
                _limits.promise_number < new["promise_number"],
            ),
        ),
        [
            {
                "key": one.promise.key,
                "ceiling": one.promise.ceiling,
                "owed": one.promise.owed,
                "has_holdings": one.promise.is_whole,
                **write_spec(one.promise.spec),
                "promise_epoch": epoch,
                "promise_number": one.number,
            }
            for one in promises
        ],
    )


def _save_holdings(connection: Connection, promises: Sequence[NumberedPromise], epoch: int) -> None:
    # What is held no more is kept as 0, for its number, until the limit is over.
    rows = [
        {
            "key": one.promise.key,
            "holder": holder,
            **write_holding(holding),
            "promise_epoch": epoch,
            "promise_number": one.number,
        }
        for one in promises
        for holder, holding in one.promise.holdings
    ]
    if not rows:
        return
    statement = insert_or(connection, lease_floors)
    new = statement.excluded
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=[_floors.key, _floors.holder],
            set_={
                name: new[name] for name in (*HOLDING_COLUMNS, "promise_epoch", "promise_number")
            },
            where=or_(
                _floors.promise_epoch < new["promise_epoch"],
                _floors.promise_number < new["promise_number"],
            ),
        ),
        rows,
    )
