"""
Note that more may be lent than is written down, as after an older copy of the database was put
back.

Servers of the version before know nothing of it, and go by what is written down.
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; nothing is doubted yet."""
    op.add_column(
        "lease_book",
        sa.Column(
            "is_doubted",
            sa.Boolean(),
            nullable=False,
            server_default=sa.false(),
            comment="More may be lent than is written here, as an older copy was put back.",
        ),
    )


def downgrade() -> None:
    """Drop it."""
    op.drop_column("lease_book", "is_doubted")
