"""
Keep what each agent may have of a limit, and which start of it, so that less is kept free for
agents that have not been heard since the server started.

Servers of the version before know nothing of it and go by ceilings, which are kept for them.
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

# SQLite numbers rows by itself only under the exact type INTEGER.
_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Add columns; their defaults say that nothing is known yet."""
    op.add_column(
        "lease_book",
        sa.Column(
            "holdings_epoch",
            _ID,
            nullable=False,
            server_default="0",
            comment="The newest in which holdings were kept; less than epoch: an older version "
            "has it.",
        ),
    )
    op.add_column(
        "lease_limits",
        sa.Column(
            "has_holdings",
            sa.Boolean(),
            nullable=False,
            server_default=sa.false(),
            comment="No more are lent than lease_floors says, whatever the ceiling.",
        ),
    )
    op.add_column(
        "lease_floors",
        sa.Column(
            "units",
            _ID,
            nullable=False,
            server_default="0",
            comment="What it may have while one is; at most.",
        ),
    )
    op.add_column(
        "lease_floors",
        sa.Column(
            "incarnation",
            _ID,
            nullable=False,
            server_default="0",
            comment="Which start of the agent; 0: an older version has not said.",
        ),
    )
    if op.get_context().dialect.name == "postgresql":
        op.alter_column(
            "lease_floors",
            "floor",
            existing_type=_ID,
            existing_nullable=False,
            comment="What it may use while no server is there.",
        )
        op.create_table_comment("lease_floors", "What agents may have of limits.")


def downgrade() -> None:
    """Drop them; the ceilings stand."""
    if op.get_context().dialect.name == "postgresql":
        op.create_table_comment(
            "lease_floors", "Units that agents may use while no server is there."
        )
        op.alter_column(
            "lease_floors", "floor", existing_type=_ID, existing_nullable=False, comment=None
        )
    op.drop_column("lease_floors", "incarnation")
    op.drop_column("lease_floors", "units")
    op.drop_column("lease_limits", "has_holdings")
    op.drop_column("lease_book", "holdings_epoch")
