"""
Number what several servers promise of one limit, so that an older promise undoes no newer one.
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

# SQLite numbers rows by itself only under the exact type INTEGER.
_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_TABLES = ("lease_limits", "lease_floors")


def upgrade() -> None:
    """Add columns; what a server that keeps the book alone writes has their defaults."""
    for table in _TABLES:
        op.add_column(
            table,
            sa.Column(
                "promise_epoch",
                _ID,
                nullable=False,
                server_default="0",
                comment="In which servers together wrote it; 0: one alone did.",
            ),
        )
        op.add_column(
            table,
            sa.Column(
                "promise_number",
                _ID,
                nullable=False,
                server_default="0",
                comment="Within the epoch, the later the higher.",
            ),
        )


def downgrade() -> None:
    """Drop them."""
    for table in _TABLES:
        op.drop_column(table, "promise_number")
        op.drop_column(table, "promise_epoch")
