"""
Keep outcomes to try rules on, agents with what they have applied, and adjustments.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

# SQLite numbers rows by itself only under the exact type INTEGER.
_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Add tables and columns; what was written before needs none of them."""
    _add_action_columns()
    _add_match_columns()
    _create_outcomes()
    _create_agents()


def downgrade() -> None:
    """Drop them."""
    op.drop_table("agents")
    op.drop_table("outcomes")
    for name in ("next_step_time", "lowered_time", "adjust", "reason"):
        op.drop_column("automation_actions", name)
    for name in ("campaign", "tenant", "routing_domain"):
        op.drop_column("automation_matches", name)


def _add_action_columns() -> None:
    for column in (
        sa.Column(
            "reason",
            sa.Text(),
            server_default="",
            nullable=False,
            comment="As an operator gave it.",
        ),
        sa.Column(
            "adjust",
            sa.JSON(none_as_null=True),
            nullable=True,
            comment="How an adjustment lowers and recovers.",
        ),
        sa.Column(
            "lowered_time",
            _TIME,
            nullable=True,
            comment="When an adjustment last lowered the value.",
        ),
        sa.Column(
            "next_step_time",
            _TIME,
            nullable=True,
            comment="When an adjustment recovers by a step.",
        ),
    ):
        op.add_column("automation_actions", column)


def _add_match_columns() -> None:
    # A match that is judged late is judged for its own mail.
    for name in ("routing_domain", "tenant", "campaign"):
        op.add_column(
            "automation_matches",
            sa.Column(name, sa.Text(), server_default="", nullable=False, comment="Of the mail."),
        )


def _create_outcomes() -> None:
    op.create_table(
        "outcomes",
        sa.Column("id", _ID, nullable=False),
        sa.Column("event_id", sa.Text(), nullable=False),
        sa.Column("event_time", _TIME, nullable=False),
        sa.Column("type", sa.Text(), nullable=False, comment="Spelt as in the delivery log."),
        sa.Column("recipient_domain", sa.Text(), nullable=False),
        sa.Column("routing_domain", sa.Text(), nullable=False),
        sa.Column("site_name", sa.Text(), nullable=False),
        sa.Column("path_name", sa.Text(), nullable=False),
        sa.Column("egress_source", sa.Text(), nullable=False),
        sa.Column("egress_pool", sa.Text(), nullable=False),
        sa.Column("provider_name", sa.Text(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("campaign", sa.Text(), nullable=False),
        sa.Column("code", sa.Integer(), nullable=False, comment="0: no reply."),
        sa.Column("enhanced_code", sa.Text(), nullable=False, comment="Such as 4.7.0; '' is none."),
        sa.Column(
            "content", sa.Text(), nullable=False, comment="Local parts of addresses removed."
        ),
        sa.Column(
            "command", sa.Text(), nullable=False, comment="Local parts of addresses removed."
        ),
        sa.Column(
            "internal", sa.Boolean(), nullable=False, comment="Made by the agent, not by the peer."
        ),
        sa.Column("num_attempts", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_outcomes"),
        sa.UniqueConstraint("event_id", name="uq_outcomes_event_id"),
        comment="The newest outcomes that agents reported, for trying rules on.",
        sqlite_autoincrement=True,
    )
    op.create_index("ix_outcomes_event_time", "outcomes", ["event_time"])


def _create_agents() -> None:
    op.create_table(
        "agents",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("egress_sources", sa.JSON(), nullable=False),
        sa.Column(
            "server", sa.Text(), nullable=False, comment="Process that it watches or last watched."
        ),
        sa.Column("connect_time", _TIME, nullable=False),
        sa.Column("seen_time", _TIME, nullable=False, comment="When it was last known to watch."),
        sa.Column("disconnect_time", _TIME, nullable=True, comment="Null while it watches."),
        sa.Column(
            "applied_revision",
            _ID,
            nullable=False,
            comment="Every change up to it that concerns the agent has been applied.",
        ),
        sa.Column("subscribed_paths", sa.Integer(), nullable=False),
        sa.Column(
            "reject_time",
            _TIME,
            nullable=True,
            comment="When it last refused part of a response.",
        ),
        sa.Column("reject_reason", sa.Text(), server_default="", nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_agents"),
        comment="Who connected, and which revision each has applied.",
    )
