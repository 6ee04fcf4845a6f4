"""
Keep the history of every row of the rules, on PostgreSQL as well as on SQLite.
"""

import sqlalchemy as sa
from alembic import context, op

from policy_server.store.triggers import (
    History,
    LoggedTable,
    drop_postgresql_triggers,
    drop_sqlite_triggers,
    postgresql_triggers,
    sqlite_triggers,
)

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# SQLite numbers rows by itself only under the exact type INTEGER.
_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

#: Renewals of what is unchanged (a later match, an MX answer seen again) are not logged.
_LOGGED = (
    LoggedTable(
        name="rule_layers",
        history=History(
            key=("id",),
            columns=(
                *("id", "name", "position", "enabled", "description"),
                *("valid_from", "valid_until"),
            ),
            block="",
            layer="id",
        ),
    ),
    LoggedTable(
        name="rule_blocks",
        history=History(
            key=("id",),
            columns=(
                *("id", "layer_id", "scope", "name", "source", "mx_rollup", "replace_base"),
                *("enabled", "position", "comment"),
            ),
            block="id",
            layer="layer_id",
        ),
    ),
    LoggedTable(
        name="rule_options",
        row="block_id",
        history=History(
            key=("block_id", "name"),
            columns=("block_id", "name", "value", "comment", "position"),
            json=("value",),
            block="block_id",
        ),
    ),
    LoggedTable(
        name="provider_matches",
        row="block_id",
        history=History(
            key=("block_id", "kind", "value"),
            columns=("block_id", "kind", "value", "position", "comment"),
            block="block_id",
        ),
    ),
    LoggedTable(
        name="automation_rules",
        row="block_id",
        history=History(
            key=("id",),
            columns=(
                *("id", "block_id", "position", "regexes", "actions", "trigger", "duration"),
                *("match_internal", "mode", "enabled", "comment"),
            ),
            json=("regexes", "actions", "trigger", "duration"),
            block="block_id",
        ),
    ),
    LoggedTable(name="automation_actions", counted=("state", "new_value", "expire_time")),
    LoggedTable(name="sites", row="", row_name="domain", counted=("site_name", "mx_hosts")),
)
_NAMES = tuple(table.name for table in _LOGGED)


def upgrade() -> None:
    """Add the history and what rows need to come back as a file had them."""
    _add_columns()
    _create_history()
    if op.get_bind().dialect.name == "sqlite":
        _execute(drop_sqlite_triggers(_NAMES) + sqlite_triggers(_LOGGED))
    else:
        schema = op.get_bind().exec_driver_sql("SELECT quote_ident(current_schema())").scalar()
        _execute(postgresql_triggers(_LOGGED, schema=str(schema)))


def downgrade() -> None:
    """Drop the history; on PostgreSQL nothing is recorded below this migration."""
    is_sqlite = op.get_bind().dialect.name == "sqlite"
    _execute((drop_sqlite_triggers if is_sqlite else drop_postgresql_triggers)(_NAMES))
    op.drop_table("rule_history")
    op.drop_column("datastore", "history_forgotten_until")
    op.drop_column("datastore", "log_forgotten_until")
    op.drop_column("change_log", "row_name")
    op.drop_column("provider_matches", "comment")
    op.drop_column("provider_matches", "position")
    op.drop_column("rule_options", "position")
    if is_sqlite:
        _execute(context.script.get_revision("0001").module.log_triggers())


def _execute(statements: list[str]) -> None:
    for statement in statements:
        # Not op.execute, which would take colons for parameters.
        op.get_bind().exec_driver_sql(statement)


def _add_columns() -> None:
    for table in ("rule_options", "provider_matches"):
        position = sa.Column(
            "position",
            sa.Integer(),
            server_default="0",
            nullable=False,
            comment="Place in the file.",
        )
        op.add_column(table, position)
    op.add_column(
        "provider_matches", sa.Column("comment", sa.Text(), server_default="", nullable=False)
    )
    op.add_column(
        "change_log",
        sa.Column(
            "row_name",
            sa.Text(),
            server_default="",
            nullable=False,
            comment="Key of rows that have a name in the place of a number: a site's domain.",
        ),
    )
    for name, table in (
        ("log_forgotten_until", "change_log"),
        ("history_forgotten_until", "rule_history"),
    ):
        comment = f"Newest revision that is not whole in {table} any more."
        op.add_column(
            "datastore", sa.Column(name, _ID, server_default="0", nullable=False, comment=comment)
        )
    # What was before can't be brought back.
    op.execute(
        "UPDATE datastore SET history_forgotten_until = "
        "(SELECT coalesce(max(id), 0) FROM policy_revisions)"
    )


def _create_history() -> None:
    op.create_table(
        "rule_history",
        sa.Column("id", _ID, nullable=False),
        sa.Column("revision", _ID, nullable=False),
        sa.Column("table_name", sa.Text(), nullable=False),
        sa.Column(
            "block_id", _ID, nullable=True, comment="Row of rule_blocks that it is or belongs to."
        ),
        sa.Column(
            "layer_id", _ID, nullable=True, comment="Row of rule_layers that it is or belongs to."
        ),
        sa.Column("row_key", sa.JSON(), nullable=False, comment="Primary key of the row."),
        sa.Column("operation", sa.Text(), nullable=False),
        sa.Column("old", sa.JSON(), nullable=True, comment="The row before; null for an insert."),
        sa.Column("new", sa.JSON(), nullable=True, comment="The row after; null for a delete."),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("author", sa.Text(), nullable=False),
        sa.CheckConstraint(
            "operation IN ('insert', 'update', 'delete')",
            name=op.f("ck_rule_history_operation_known"),
        ),
        sa.PrimaryKeyConstraint("id", name="pk_rule_history"),
        comment="Every change of every row of the rules, kept by triggers.",
        sqlite_autoincrement=True,
    )
    op.create_index("ix_rule_history_block_id_id", "rule_history", ["block_id", "id"])
    op.create_index("ix_rule_history_revision", "rule_history", ["revision"])
