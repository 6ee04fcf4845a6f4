"""
Keep what the lease book promised: ceilings, floors, and whose book it is.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

# SQLite numbers rows by itself only under the exact type INTEGER.
_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Add tables; what was written before needs none of them."""
    _create_book()
    _create_limits()
    _create_floors()


def downgrade() -> None:
    """Drop them."""
    for name in ("lease_floors", "lease_limits", "lease_book"):
        op.drop_table(name)


def _create_book() -> None:
    op.create_table(
        "lease_book",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column(
            "epoch", _ID, nullable=False, comment="Grows with each server that takes the book."
        ),
        sa.Column(
            "owner", sa.Text(), nullable=False, comment="The server that keeps it; '' is none."
        ),
        sa.Column("address", sa.Text(), nullable=False, comment="Where agents reach the owner."),
        sa.Column(
            "renewals", _ID, nullable=False, comment="Grows with each sign of life of the owner."
        ),
        sa.Column("secret", sa.Text(), nullable=False, comment="Of the proofs of grants."),
        sa.CheckConstraint("id = 1", name=op.f("ck_lease_book_one_row")),
        sa.PrimaryKeyConstraint("id", name="pk_lease_book"),
        comment="Which server lends limits out; only one does.",
    )


def _create_limits() -> None:
    op.create_table(
        "lease_limits",
        sa.Column("key", sa.Text(), nullable=False, comment="Option and what it is for."),
        sa.Column("units", _ID, nullable=False, comment="Connections; of a rate, its burst."),
        sa.Column(
            "rate_count", _ID, nullable=True, comment="Events per period; null: connections."
        ),
        sa.Column(
            "rate_period_ns",
            _ID,
            nullable=True,
            comment="Period in nanoseconds; null: connections.",
        ),
        sa.Column(
            "ceiling",
            _ID,
            nullable=False,
            comment="No more units are lent, or than the floors come to, whichever is more.",
        ),
        sa.PrimaryKeyConstraint("key", name="pk_lease_limits"),
        comment="Limits that are lent, and how much of them may be out.",
    )


def _create_floors() -> None:
    op.create_table(
        "lease_floors",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("holder", sa.Text(), nullable=False, comment="Agent, or agent/worker."),
        sa.Column("floor", _ID, nullable=False),
        sa.PrimaryKeyConstraint("key", "holder", name="pk_lease_floors"),
        comment="Units that agents may use while no server is there.",
    )
