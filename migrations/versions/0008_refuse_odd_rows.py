"""
Refuse on SQLite what the types and foreign keys of PostgreSQL refuse: positions that are no whole
numbers, switches that are neither on nor off, times that are none, parts of what is not there.

By triggers, which leave rows that are there already as they are, and hold as well for tools that
do not enforce foreign keys, as the sqlite3 shell.
"""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

#: Columns of each table that hold positions, switches and times.
_POSITIONS = {
    "rule_layers": ("position",),
    "rule_blocks": ("position",),
    "rule_options": ("position",),
    "provider_matches": ("position",),
    "automation_rules": ("position",),
}
_SWITCHES = {
    "rule_layers": ("enabled",),
    "rule_blocks": ("mx_rollup", "replace_base", "enabled"),
    "automation_rules": ("match_internal", "enabled"),
}
_TIMES = {"rule_layers": ("valid_from", "valid_until")}
#: The column that names the parent of a row, and the parent's table.
_PARENTS = {
    "rule_blocks": ("layer_id", "rule_layers"),
    "rule_options": ("block_id", "rule_blocks"),
    "provider_matches": ("block_id", "rule_blocks"),
    "automation_rules": ("block_id", "rule_blocks"),
}
_OPERATIONS = ("insert", "update")
#: A number that will never be reached by counting.
_FAR = 2**40


def upgrade() -> None:
    """Add the triggers; PostgreSQL needs none."""
    if op.get_bind().dialect.name == "sqlite":
        for table in _POSITIONS:
            for operation in _OPERATIONS:
                # Not op.execute, which would take colons for parameters.
                op.get_bind().exec_driver_sql(_trigger(table, operation))
        for parent in ("rule_layers", "rule_blocks"):
            _keep_off_orphans(parent)


def _keep_off_orphans(parent: str) -> None:
    """Give no new row the number of one that was never there, but has parts."""
    newest = ", ".join(
        f"coalesce((SELECT max({column}) FROM {child} WHERE {column} < {_FAR}), 0)"
        for child, (column, table) in _PARENTS.items()
        if table == parent
    )
    op.execute(
        f"INSERT INTO sqlite_sequence (name, seq) SELECT '{parent}', 0 "
        f"WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = '{parent}')"
    )
    op.execute(f"UPDATE sqlite_sequence SET seq = max(seq, {newest}) WHERE name = '{parent}'")


def downgrade() -> None:
    """Drop them."""
    if op.get_bind().dialect.name == "sqlite":
        for table in _POSITIONS:
            for operation in _OPERATIONS:
                op.execute(f"DROP TRIGGER {table}_check_{operation}")


def _trigger(table: str, operation: str) -> str:
    # One for all columns of a table, as calling a trigger is most of what it costs.
    checks = _checks(table)
    if operation == "update":
        # A row that is odd already may be changed elsewhere.
        checks = [
            (column, f"NEW.{column} IS NOT OLD.{column} AND ({condition})", message)
            for column, condition, message in checks + _parent_checks(table)
        ]
    refusals = " ".join(
        f"SELECT RAISE(ABORT, '{table}.{column} {message}') WHERE {condition};"
        for column, condition, message in checks
    )
    return (
        f"CREATE TRIGGER {table}_check_{operation} BEFORE {operation.upper()} ON {table} "
        f"BEGIN {refusals} END"
    )


def _checks(table: str) -> list[tuple[str, str, str]]:
    """List column, condition under which its value is refused, and what is wrong then."""
    checks = [
        (
            column,
            f"typeof(NEW.{column}) NOT IN ('integer', 'null') "
            f"OR NEW.{column} NOT BETWEEN -2147483648 AND 2147483647",
            "is no whole number between -2147483648 and 2147483647",
        )
        for column in _POSITIONS[table]
    ]
    checks += [
        (
            column,
            f"lower(NEW.{column}) NOT IN ('0', '1', 'false', 'true')",
            "is neither 1 nor 0",
        )
        for column in _SWITCHES.get(table, ())
    ]
    checks += [
        (column, _is_no_time(f"NEW.{column}"), "is no time such as 2026-08-01 12:00:00")
        for column in _TIMES.get(table, ())
    ]
    if table in _PARENTS:
        column, parent = _PARENTS[table]
        checks.append(
            (
                column,
                f"NOT EXISTS (SELECT 1 FROM {parent} WHERE id = NEW.{column})",
                f"is the id of no row of {parent}",
            )
        )
    return checks


def _is_no_time(value: str) -> str:
    # Roughly: SQLite knows fewer ways to write a time zone than the server reads. Adding no days
    # makes a 30th of February the 2nd of March, which is another date.
    return (
        f"{value} IS NOT NULL AND (typeof({value}) <> 'text' "
        f"OR date(substr({value}, 1, 10), '+0 days') IS NOT substr({value}, 1, 10) "
        f"OR length({value}) > 10 AND time(substr({value}, 12, 2) || ':00') IS NULL)"
    )


def _parent_checks(table: str) -> list[tuple[str, str, str]]:
    """List what is refused of a change of the number that other rows go by."""
    return [
        (
            "id",
            f"EXISTS (SELECT 1 FROM {child} WHERE {column} = OLD.id)",
            f"cannot change while rows of {child} have it",
        )
        for child, (column, parent) in _PARENTS.items()
        if parent == table
    ]
