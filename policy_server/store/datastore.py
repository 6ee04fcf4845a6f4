"""
The datastore's identity: tells this database from every other one.

A client that was connected to another database must not go on from where it was there.
"""

import uuid

from sqlalchemy import Connection, insert, select

from policy_server.store.database import Database
from policy_server.store.locks import Lock, take_lock
from policy_server.store.tables import datastore


async def read_datastore_id(database: Database) -> str:
    """Read the identity of this database; a new one is given one."""
    return await database.write(read_or_make_datastore)


def read_or_make_datastore(connection: Connection) -> str:
    """Read the identity of this database, or give it one."""
    known = connection.execute(select(datastore.c.id)).scalar()
    if known is not None:
        return str(known)
    # Two servers that start on a new database must come to the same.
    take_lock(connection, Lock.SETUP)
    known = connection.execute(select(datastore.c.id)).scalar()
    if known is not None:
        return str(known)
    made = uuid.uuid4().hex
    connection.execute(insert(datastore).values(id=made))
    return made
