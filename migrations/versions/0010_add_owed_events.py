"""
Keep what a rate owes of units that it has lost: a limit that is lowered, and raised before all is
earned again, does not begin as a new one, also after a restart of the server.
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

# SQLite numbers rows by itself only under the exact type INTEGER.
_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

_HOLDER, _HOLDER_BEFORE = (
    "Agent or agent/worker, and @host where it says one.",
    "Agent, or agent/worker.",
)


def upgrade() -> None:
    """Add the column, and say what a holder is now."""
    op.add_column(
        "lease_limits",
        sa.Column(
            "owed",
            _ID,
            nullable=False,
            server_default="0",
            comment="Events used of units that it has lost since, and not earned again; at most.",
        ),
    )
    _describe_holder(_HOLDER)


def downgrade() -> None:
    """Drop it."""
    op.drop_column("lease_limits", "owed")
    _describe_holder(_HOLDER_BEFORE)


def _describe_holder(comment: str) -> None:
    # SQLite has no comments.
    if op.get_bind().dialect.name == "postgresql":
        op.alter_column("lease_floors", "holder", existing_type=sa.Text(), comment=comment)
