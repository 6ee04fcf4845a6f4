"""
The datastore's identity: tells this database from every other one.

A client that was connected to another database must not go on from where it was there.
"""

import uuid

from sqlalchemy import Connection, insert, select

from policy_server.store.database import Database
from policy_server.store.tables import datastore


async def read_datastore_id(database: Database) -> str:
    """Read the identity of this database; a new one is given one."""
    return await database.write(_read_or_make)


def _read_or_make(connection: Connection) -> str:
    known = connection.execute(select(datastore.c.id)).scalar()
    if known is not None:
        return str(known)
    made = uuid.uuid4().hex
    connection.execute(insert(datastore).values(id=made))
    return made
