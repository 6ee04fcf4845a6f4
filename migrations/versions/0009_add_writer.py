"""
Note which transaction wrote the row of the lease book, so that a row that comes from a dump is
told from one that has stayed where it was.

Servers of the version before say nothing of it: a row that they wrote last looks like one of a
dump, and the next server is careful for a while.
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

# SQLite numbers rows by itself only under the exact type INTEGER.
_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Add the column; its default says that it is not known yet."""
    op.add_column(
        "lease_book",
        sa.Column(
            "written_by",
            _ID,
            nullable=False,
            server_default="0",
            comment="PostgreSQL: the row's xmin; another one: it comes from a dump. 0: not said.",
        ),
    )


def downgrade() -> None:
    """Drop it."""
    op.drop_column("lease_book", "written_by")
