"""
Create the tables and the triggers that keep the revision.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# SQLite numbers rows by itself only under the exact type INTEGER.
_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_TIME = sa.DateTime(timezone=True)

#: Every change of these is a revision: table, the row to log, and which updates count.
#: Renewals of what is unchanged (a later match, an MX answer seen again) are not logged.
_LOGGED = (
    ("rule_layers", "id", ()),
    ("rule_blocks", "id", ()),
    ("rule_options", "block_id", ()),
    ("provider_matches", "block_id", ()),
    ("automation_rules", "block_id", ()),
    ("automation_actions", "id", ("state", "new_value", "expire_time")),
    ("sites", "rowid", ("site_name", "mx_hosts")),
)

#: Children that go with their row even where a person's tool does not enforce foreign keys; ids
#: are used again, so orphans would turn up under a later row.
_CHILDREN = (
    ("rule_layers", "rule_blocks", "layer_id"),
    ("rule_blocks", "rule_options", "block_id"),
    ("rule_blocks", "provider_matches", "block_id"),
    ("rule_blocks", "automation_rules", "block_id"),
    ("automation_actions", "automation_evidence", "action_id"),
)

#: Columns that hold JSON written by people.
_JSON = (
    ("rule_options", "value"),
    ("automation_rules", "regexes"),
    ("automation_rules", "actions"),
    ("automation_rules", "trigger"),
    ("automation_rules", "duration"),
)

_TABLES = (
    "datastore",
    "rule_options",
    "provider_matches",
    "automation_rules",
    "rule_blocks",
    "automation_evidence",
    "sites",
    "rule_layers",
    "rule_errors",
    "policy_revisions",
    "change_log",
    "automation_matches",
    "automation_actions",
)


def upgrade() -> None:
    """Create everything; PostgreSQL gets its triggers from 0002 on."""
    _create_tables()
    if op.get_bind().dialect.name == "sqlite":
        for statement in log_triggers() + _other_triggers():
            # Not op.execute, which would take colons for parameters.
            op.get_bind().exec_driver_sql(statement)


def downgrade() -> None:
    """Drop everything; triggers go with their tables."""
    for table in _TABLES:
        op.drop_table(table)


def log_triggers() -> list[str]:
    """Write the triggers that 0002 replaces, and brings back when it is taken back."""
    return [
        _log_trigger(table, row, operation, counted)
        for table, row, counted in _LOGGED
        for operation in ("insert", "update", "delete")
    ]


def _other_triggers() -> list[str]:
    statements = [
        f"CREATE TRIGGER {child}_follow_{parent} AFTER DELETE ON {parent} "
        f"BEGIN DELETE FROM {child} WHERE {column} = OLD.id; END"
        for parent, child, column in _CHILDREN
    ]
    statements += [
        _json_trigger(table, column, operation)
        for table, column in _JSON
        for operation in ("insert", "update")
    ]
    return statements


def _log_trigger(table: str, row: str, operation: str, counted: tuple[str, ...]) -> str:
    image = "OLD" if operation == "delete" else "NEW"
    when = ""
    if operation == "update" and counted:
        changes = " OR ".join(f"OLD.{column} IS NOT NEW.{column}" for column in counted)
        when = f"WHEN {changes} "
    return (
        f"CREATE TRIGGER {table}_log_{operation} AFTER {operation.upper()} ON {table} {when}BEGIN "
        # A revision left open by our own tools gathers the change; any other gets its own.
        "INSERT INTO policy_revisions (committed_at, summary) "
        f"SELECT strftime('%Y-%m-%d %H:%M:%f000', 'now'), '{table} changed in SQL' "
        "WHERE NOT EXISTS (SELECT 1 FROM policy_revisions WHERE is_open = 1 "
        "AND id = (SELECT max(id) FROM policy_revisions)); "
        "INSERT INTO change_log (revision, table_name, row_id, operation) "
        f"SELECT max(id), '{table}', {image}.{row}, '{operation}' FROM policy_revisions; END"
    )


def _json_trigger(table: str, column: str, operation: str) -> str:
    return (
        f"CREATE TRIGGER {table}_{column}_json_{operation} BEFORE {operation.upper()} ON {table} "
        f"WHEN NOT json_valid(NEW.{column}) BEGIN "
        f"SELECT RAISE(ABORT, '{table}.{column} is not JSON; texts need double quotes inside'); "
        "END"
    )


def _create_tables() -> None:
    op.create_table(
        "automation_actions",
        sa.Column("id", _ID, nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("path_name", sa.Text(), nullable=False),
        sa.Column("routing_domain", sa.Text(), nullable=False, comment="'' is the whole site."),
        sa.Column("site_name", sa.Text(), nullable=False),
        sa.Column("egress_source", sa.Text(), nullable=False),
        sa.Column("tenant", sa.Text(), server_default="", nullable=False),
        sa.Column("campaign", sa.Text(), server_default="", nullable=False),
        sa.Column("option", sa.Text(), server_default="", nullable=False),
        sa.Column("old_value", sa.JSON(), nullable=True),
        sa.Column("new_value", sa.JSON(), nullable=True),
        sa.Column("rule_key", sa.Text(), nullable=False, comment="Stable name of the rule."),
        sa.Column("rule_layer", sa.Text(), nullable=False),
        sa.Column("rule_block", sa.Text(), nullable=False),
        sa.Column("rule_position", sa.Integer(), nullable=False),
        sa.Column("rule_regexes", sa.JSON(), nullable=False),
        sa.Column("match_count", sa.Integer(), nullable=False),
        sa.Column("first_match_time", _TIME, nullable=False),
        sa.Column("last_match_time", _TIME, nullable=False),
        sa.Column("expire_time", _TIME, nullable=False),
        sa.Column("changed_by", sa.Text(), server_default="automation", nullable=False),
        sa.CheckConstraint(
            "state IN ('in_force', 'expired', 'cancelled', 'pinned', 'observed')",
            name=op.f("ck_automation_actions_state_known"),
        ),
        sa.PrimaryKeyConstraint("id", name="pk_automation_actions"),
        comment="The ledger of actions.",
        sqlite_autoincrement=True,
    )
    op.create_index(
        "ix_automation_actions_state_expire_time",
        "automation_actions",
        ["state", "expire_time"],
        unique=False,
    )
    op.create_index(
        "uq_automation_actions_live",
        "automation_actions",
        [
            "rule_key",
            "kind",
            "egress_source",
            "site_name",
            "routing_domain",
            "tenant",
            "campaign",
            "option",
        ],
        unique=True,
        sqlite_where=sa.text("state IN ('in_force', 'pinned')"),
        postgresql_where=sa.text("state IN ('in_force', 'pinned')"),
    )
    op.create_table(
        "automation_matches",
        sa.Column("rule_key", sa.Text(), nullable=False),
        sa.Column("event_id", sa.Text(), nullable=False),
        sa.Column("path_name", sa.Text(), nullable=False),
        sa.Column("event_time", _TIME, nullable=False),
        sa.Column(
            "keep_until", _TIME, nullable=False, comment="No decision can need it from then on."
        ),
        sa.PrimaryKeyConstraint("rule_key", "event_id", name="pk_automation_matches"),
        comment="Which outcome matched which rule: what thresholds count, each event once.",
    )
    op.create_index(
        "ix_automation_matches_keep_until", "automation_matches", ["keep_until"], unique=False
    )
    op.create_index(
        "ix_automation_matches_rule_key_path_name_event_time",
        "automation_matches",
        ["rule_key", "path_name", "event_time"],
        unique=False,
    )
    op.create_table(
        "change_log",
        sa.Column("id", _ID, nullable=False),
        sa.Column("revision", _ID, nullable=False),
        sa.Column("table_name", sa.Text(), nullable=False),
        sa.Column(
            "row_id", _ID, nullable=False, comment="Row of that table; a block's for its parts."
        ),
        sa.Column("operation", sa.Text(), nullable=False),
        sa.CheckConstraint(
            "operation IN ('insert', 'update', 'delete')",
            name=op.f("ck_change_log_operation_known"),
        ),
        sa.PrimaryKeyConstraint("id", name="pk_change_log"),
        comment="What each revision touched, kept by triggers.",
        sqlite_autoincrement=True,
    )
    op.create_index("ix_change_log_revision", "change_log", ["revision"], unique=False)
    op.create_table(
        "datastore",
        sa.Column(
            "id", sa.Text(), nullable=False, comment="Made at random when the server first starts."
        ),
        sa.PrimaryKeyConstraint("id", name="pk_datastore"),
        comment="Which database this is; resume tokens of another one are refused.",
    )
    op.create_table(
        "policy_revisions",
        sa.Column("id", _ID, nullable=False),
        sa.Column("committed_at", _TIME, nullable=False),
        sa.Column("author", sa.Text(), server_default="", nullable=False),
        sa.Column("summary", sa.Text(), server_default="", nullable=False),
        sa.Column(
            "is_open",
            sa.Boolean(),
            server_default="0",
            nullable=False,
            comment="Set within a transaction that gathers its changes under one revision.",
        ),
        sa.PrimaryKeyConstraint("id", name="pk_policy_revisions"),
        comment="One row per committed change, in commit order.",
        sqlite_autoincrement=True,
    )
    op.create_table(
        "rule_errors",
        sa.Column("id", _ID, nullable=False),
        sa.Column("severity", sa.Text(), nullable=False),
        sa.Column("code", sa.Text(), nullable=False),
        sa.Column("table_name", sa.Text(), nullable=False),
        sa.Column(
            "block_id", _ID, nullable=True, comment="Row of rule_blocks, if one is to blame."
        ),
        sa.Column("option", sa.Text(), server_default="", nullable=False),
        sa.Column("value", sa.JSON(), nullable=True),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("since_revision", _ID, nullable=False),
        sa.CheckConstraint(
            "severity IN ('warning', 'error')", name=op.f("ck_rule_errors_severity_known")
        ),
        sa.PrimaryKeyConstraint("id", name="pk_rule_errors"),
        comment="Written by the server: what it refused or found odd, until it is repaired.",
    )
    op.create_table(
        "rule_layers",
        sa.Column("id", _ID, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column(
            "position",
            sa.Integer(),
            nullable=False,
            comment="Layers apply in this order; later wins.",
        ),
        sa.Column("enabled", sa.Boolean(), server_default="1", nullable=False),
        sa.Column("description", sa.Text(), server_default="", nullable=False),
        sa.Column("valid_from", _TIME, nullable=True, comment="Not in force before; null: always."),
        sa.Column(
            "valid_until",
            _TIME,
            nullable=True,
            comment="Not in force from then on; null: for ever.",
        ),
        sa.CheckConstraint("name <> ''", name=op.f("ck_rule_layers_name_given")),
        sa.PrimaryKeyConstraint("id", name="pk_rule_layers"),
        sa.UniqueConstraint("name", name="uq_rule_layers_name"),
        comment="Named, ordered sets of rules; a rule file is one layer.",
        sqlite_autoincrement=True,
    )
    op.create_table(
        "sites",
        sa.Column("domain", sa.Text(), nullable=False),
        sa.Column("site_name", sa.Text(), nullable=False),
        sa.Column("mx_hosts", sa.JSON(), nullable=False, comment='List of {"host", "preference"}.'),
        sa.Column("expires_at", _TIME, nullable=False, comment="When the MX answer ends."),
        sa.PrimaryKeyConstraint("domain", name="pk_sites"),
        comment="Last known site of each domain.",
    )
    op.create_table(
        "automation_evidence",
        sa.Column("id", _ID, nullable=False),
        sa.Column("action_id", _ID, nullable=False),
        sa.Column("event_id", sa.Text(), nullable=False),
        sa.Column("event_time", _TIME, nullable=False),
        sa.Column(
            "reply",
            sa.Text(),
            nullable=False,
            comment="On one line, recipients' local parts removed.",
        ),
        sa.ForeignKeyConstraint(
            ["action_id"],
            ["automation_actions.id"],
            name="fk_automation_evidence_action_id",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name="pk_automation_evidence"),
        comment="The newest replies, up to 20, that led to an action.",
    )
    op.create_index(
        "ix_automation_evidence_action_id", "automation_evidence", ["action_id"], unique=False
    )
    op.create_table(
        "rule_blocks",
        sa.Column("id", _ID, nullable=False),
        sa.Column("layer_id", _ID, nullable=False),
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column(
            "name", sa.Text(), server_default="", nullable=False, comment="Provider or domain."
        ),
        sa.Column(
            "source", sa.Text(), server_default="", nullable=False, comment="'' is every source."
        ),
        sa.Column("mx_rollup", sa.Boolean(), server_default="1", nullable=False),
        sa.Column("replace_base", sa.Boolean(), server_default="0", nullable=False),
        sa.Column("enabled", sa.Boolean(), server_default="1", nullable=False),
        sa.Column("position", sa.Integer(), server_default="0", nullable=False),
        sa.Column("comment", sa.Text(), server_default="", nullable=False),
        sa.CheckConstraint(
            "(scope = 'default') = (name = '')", name=op.f("ck_rule_blocks_name_fits_scope")
        ),
        sa.CheckConstraint(
            "scope IN ('default', 'provider', 'domain')", name=op.f("ck_rule_blocks_scope_known")
        ),
        sa.ForeignKeyConstraint(
            ["layer_id"], ["rule_layers.id"], name="fk_rule_blocks_layer_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_rule_blocks"),
        comment="One scope in a layer, for one egress source or for all.",
        sqlite_autoincrement=True,
    )
    op.create_index("ix_rule_blocks_layer_id", "rule_blocks", ["layer_id"], unique=False)
    op.create_table(
        "automation_rules",
        sa.Column("id", _ID, nullable=False),
        sa.Column("block_id", _ID, nullable=False),
        sa.Column("position", sa.Integer(), server_default="0", nullable=False),
        sa.Column("regexes", sa.JSON(), nullable=False, comment="List of patterns; any may match."),
        sa.Column("actions", sa.JSON(), nullable=False, comment="List, spelt as in rule files."),
        sa.Column(
            "trigger", sa.JSON(), nullable=False, comment='"Immediate" or {"Threshold": "10/hr"}.'
        ),
        sa.Column(
            "duration", sa.JSON(), nullable=False, comment='Seconds or a text such as "2 hours".'
        ),
        sa.Column("match_internal", sa.Boolean(), server_default="0", nullable=False),
        sa.Column("mode", sa.Text(), server_default="enforce", nullable=False),
        sa.Column("enabled", sa.Boolean(), server_default="1", nullable=False),
        sa.Column("comment", sa.Text(), server_default="", nullable=False),
        sa.CheckConstraint(
            "mode IN ('enforce', 'observe')", name=op.f("ck_automation_rules_mode_known")
        ),
        sa.ForeignKeyConstraint(
            ["block_id"],
            ["rule_blocks.id"],
            name="fk_automation_rules_block_id",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name="pk_automation_rules"),
        comment="Patterns on outcomes and what follows.",
        sqlite_autoincrement=True,
    )
    op.create_index("ix_automation_rules_block_id", "automation_rules", ["block_id"], unique=False)
    op.create_table(
        "provider_matches",
        sa.Column("block_id", _ID, nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.CheckConstraint(
            "kind IN ('mx_suffix', 'domain_suffix', 'host_name')",
            name=op.f("ck_provider_matches_kind_known"),
        ),
        sa.CheckConstraint("value <> ''", name=op.f("ck_provider_matches_value_given")),
        sa.ForeignKeyConstraint(
            ["block_id"],
            ["rule_blocks.id"],
            name="fk_provider_matches_block_id",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("block_id", "kind", "value", name="pk_provider_matches"),
        comment="Patterns that make a provider.",
    )
    op.create_table(
        "rule_options",
        sa.Column("block_id", _ID, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("value", sa.JSON(), nullable=False, comment="JSON null unsets."),
        sa.Column("comment", sa.Text(), server_default="", nullable=False),
        sa.ForeignKeyConstraint(
            ["block_id"], ["rule_blocks.id"], name="fk_rule_options_block_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("block_id", "name", name="pk_rule_options"),
        comment="Settings of a block, in the rule files' spelling.",
    )
