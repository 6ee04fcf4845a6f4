"""
The triggers that record every change of the rules, as SQL for each dialect.

The rules they keep, on both databases:

1. A change of a logged table belongs to a revision. One that our tools, or a person, opened in
   the same transaction gathers it; otherwise it gets one of its own: on SQLite each row, on
   PostgreSQL each transaction.
2. Revisions are numbered in the order in which they are committed. SQLite has one writer; on
   PostgreSQL whoever numbers holds a lock until the commit. The triggers of PostgreSQL run at the
   commit, so that a transaction which somebody leaves open does not hold the lock.
3. `change_log` gets a row for each changed row; so does `rule_history`, with the whole row before
   and after, for the tables that are rules.

Migrations call this with tables of their own, so a change here that matters to a database needs a
migration that makes the triggers anew.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from policy_server.store.locks import Lock

#: Channel on which PostgreSQL announces each revision when it is committed.
NOTIFY_CHANNEL = "penstock_revision"

_OPERATIONS = ("insert", "update", "delete")
_HISTORY_COLUMNS = (
    "revision, table_name, block_id, layer_id, row_key, operation, old, new, changed_at, author"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """How a table's rows are kept in `rule_history`."""

    key: tuple[str, ...]
    columns: tuple[str, ...]
    #: Those of the columns that hold JSON.
    json: tuple[str, ...] = ()
    #: Column that names the block; empty for layers.
    block: str
    #: Column that names the layer; empty: that of the block.
    layer: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedTable:
    """A table whose changes are revisions."""

    name: str
    #: Column that identifies a row, or the block it is part of, by number; empty: none does.
    row: str = "id"
    #: Column that identifies a row by name; empty: none does.
    row_name: str = ""
    #: An update of other columns is no change; empty: every update is one.
    counted: tuple[str, ...] = ()
    history: History | None = None


def sqlite_triggers(tables: Iterable[LoggedTable]) -> list[str]:
    """Write the statements that make the triggers on SQLite."""
    return [_sqlite_trigger(table, operation) for table in tables for operation in _OPERATIONS]


def drop_sqlite_triggers(names: Iterable[str]) -> list[str]:
    """Write the statements that drop the triggers of these tables on SQLite."""
    return [f"DROP TRIGGER {name}_log_{operation}" for name in names for operation in _OPERATIONS]


def postgresql_triggers(tables: Iterable[LoggedTable], *, schema: str) -> list[str]:
    """Write the statements that make functions and triggers on PostgreSQL, in a quoted schema."""
    statements = [
        _postgresql_function(name, body, schema=schema, declarations=declarations)
        for name, body, declarations in _POSTGRESQL_FUNCTIONS
    ]
    statements.append(
        "CREATE TRIGGER policy_revisions_number BEFORE INSERT ON policy_revisions "
        "FOR EACH ROW EXECUTE FUNCTION penstock_number_revision()"
    )
    for table in tables:
        statements += _postgresql_table(table, schema=schema)
    return statements


def drop_postgresql_triggers(names: Iterable[str]) -> list[str]:
    """Write the statements that drop functions and triggers on PostgreSQL."""
    functions = [f"penstock_log_{name}" for name in names]
    functions += ["penstock_number_revision", "penstock_refuse_truncate", "penstock_revision"]
    return [f"DROP FUNCTION {function} CASCADE" for function in functions]


def _sqlite_trigger(table: LoggedTable, operation: str) -> str:
    image = "OLD" if operation == "delete" else "NEW"
    when = ""
    if operation == "update" and table.counted:
        changes = " OR ".join(f"OLD.{column} IS NOT NEW.{column}" for column in table.counted)
        when = f"WHEN {changes}"
    return f"""
CREATE TRIGGER {table.name}_log_{operation} AFTER {operation.upper()} ON {table.name} {when}
BEGIN
  INSERT INTO policy_revisions (committed_at, author, summary)
  SELECT strftime('%Y-%m-%d %H:%M:%f000', 'now'), 'sql', '{table.name} changed in SQL'
  WHERE NOT EXISTS (SELECT 1 FROM policy_revisions
                    WHERE is_open = 1 AND id = (SELECT max(id) FROM policy_revisions));
  INSERT INTO change_log (revision, table_name, row_id, row_name, operation)
  SELECT max(id), '{table.name}', {_row_id(table, image)}, {_row_name(table, image)}, '{operation}'
  FROM policy_revisions;
  {_sqlite_left_row(table) if operation == "update" else ""}
  {_sqlite_history(table, table.history, operation) if table.history else ""}
END"""


def _sqlite_left_row(table: LoggedTable) -> str:
    """Log the row, or the block, that a row was before its number changed."""
    if not table.row:
        return ""
    return f"""INSERT INTO change_log (revision, table_name, row_id, operation)
  SELECT id, '{table.name}', OLD.{table.row}, 'update' FROM policy_revisions
  WHERE id = (SELECT max(id) FROM policy_revisions) AND OLD.{table.row} <> NEW.{table.row};"""


def _sqlite_history(table: LoggedTable, history: History, operation: str) -> str:
    image = "OLD" if operation == "delete" else "NEW"
    old = "NULL" if operation == "insert" else _sqlite_image(history, "OLD")
    new = "NULL" if operation == "delete" else _sqlite_image(history, "NEW")
    key = ", ".join(f"'{column}', {image}.{column}" for column in history.key)
    return f"""INSERT INTO rule_history ({_HISTORY_COLUMNS})
  SELECT id, '{table.name}', {_block_id(history, image)}, {_layer_id(history, image)},
         json_object({key}), '{operation}', {old}, {new},
         strftime('%Y-%m-%d %H:%M:%f000', 'now'), author
  FROM policy_revisions WHERE id = (SELECT max(id) FROM policy_revisions);"""


def _sqlite_image(history: History, image: str) -> str:
    parts = (
        f"'{column}', json({image}.{column})"
        if column in history.json
        else f"'{column}', {image}.{column}"
        for column in history.columns
    )
    return f"json_object({', '.join(parts)})"


def _row_id(table: LoggedTable, image: str) -> str:
    return f"{image}.{table.row}" if table.row else "0"


def _row_name(table: LoggedTable, image: str) -> str:
    return f"{image}.{table.row_name}" if table.row_name else "''"


def _block_id(history: History, image: str) -> str:
    return f"{image}.{history.block}" if history.block else "NULL"


def _layer_id(history: History, image: str) -> str:
    if history.layer:
        return f"{image}.{history.layer}"
    # A part that goes with its block finds the block gone, but not its history.
    block = f"{image}.{history.block}"
    return f"""coalesce(
           (SELECT b.layer_id FROM rule_blocks b WHERE b.id = {block}),
           (SELECT h.layer_id FROM rule_history h
            WHERE h.block_id = {block} AND h.table_name = 'rule_blocks'
            ORDER BY h.id DESC LIMIT 1))"""


#: Name and result, body, declarations.
_POSTGRESQL_FUNCTIONS = (
    (
        "penstock_number_revision() RETURNS trigger",
        f"""
  PERFORM pg_advisory_xact_lock({int(Lock.REVISIONS)});
  -- The number was drawn before the lock was there: others may have gone ahead since.
  IF NEW.id < (SELECT last_value FROM policy_revisions_id_seq) THEN
    NEW.id := nextval('policy_revisions_id_seq');
  END IF;
  -- Ends with the transaction, so that is_open needs no look.
  PERFORM set_config('penstock.revision', NEW.id::text, true);
  PERFORM pg_notify('{NOTIFY_CHANNEL}', NEW.id::text);
  RETURN NEW;""",
        "",
    ),
    (
        "penstock_revision(changed text) RETURNS bigint",
        """
  IF number IS NULL THEN
    INSERT INTO policy_revisions (committed_at, author, summary)
    VALUES (clock_timestamp(), session_user, changed || ' changed in SQL')
    RETURNING id INTO number;
  END IF;
  RETURN number;""",
        "  number bigint := nullif(current_setting('penstock.revision', true), '');\n",
    ),
    (
        "penstock_refuse_truncate() RETURNS trigger",
        """
  RAISE EXCEPTION USING MESSAGE = 'TRUNCATE is not recorded; use DELETE FROM ' || TG_TABLE_NAME;""",
        "",
    ),
)


def _postgresql_function(name: str, body: str, *, schema: str, declarations: str = "") -> str:
    # SECURITY DEFINER: who may write rules but not the record of it is recorded all the same.
    return (
        f"CREATE FUNCTION {name} LANGUAGE plpgsql SECURITY DEFINER "
        f"SET search_path = {schema}, pg_temp AS $$\n"
        f"DECLARE\n{declarations}BEGIN{body}\nEND $$"
    )


def _postgresql_table(table: LoggedTable, *, schema: str) -> list[str]:
    function = f"penstock_log_{table.name}"
    when = ""
    if table.counted:
        changes = " OR ".join(
            # As text: there is no equality of JSON.
            f"OLD.{column}::text IS DISTINCT FROM NEW.{column}::text"
            for column in table.counted
        )
        when = f" WHEN ({changes})"
    row = "DEFERRABLE INITIALLY DEFERRED FOR EACH ROW"
    return [
        _postgresql_function(
            f"{function}() RETURNS trigger",
            _postgresql_body(table),
            schema=schema,
            declarations=(
                f"  touched {table.name};\n  number bigint;\n  before json;\n  after json;\n"
            ),
        ),
        f"CREATE CONSTRAINT TRIGGER {table.name}_log AFTER INSERT OR DELETE ON {table.name} "
        f"{row} EXECUTE FUNCTION {function}()",
        f"CREATE CONSTRAINT TRIGGER {table.name}_log_update AFTER UPDATE ON {table.name} "
        f"{row}{when} EXECUTE FUNCTION {function}()",
        f"CREATE TRIGGER {table.name}_refuse_truncate BEFORE TRUNCATE ON {table.name} "
        "FOR EACH STATEMENT EXECUTE FUNCTION penstock_refuse_truncate()",
    ]


def _postgresql_body(table: LoggedTable) -> str:
    return f"""
  IF TG_OP <> 'INSERT' THEN
    touched := OLD; before := to_json(OLD);
  END IF;
  IF TG_OP <> 'DELETE' THEN
    touched := NEW; after := to_json(NEW);
  END IF;
  -- The function is asked once a transaction: calls are what this costs.
  number := coalesce(nullif(current_setting('penstock.revision', true), '')::bigint,
                     penstock_revision('{table.name}'));
  INSERT INTO change_log (revision, table_name, row_id, row_name, operation)
  VALUES (number, '{table.name}', {_row_id(table, "touched")}, {_row_name(table, "touched")},
          lower(TG_OP));
  {_postgresql_left_row(table)}
  {_postgresql_history(table, table.history) if table.history else ""}
  RETURN NULL;"""


def _postgresql_left_row(table: LoggedTable) -> str:
    if not table.row:
        return ""
    return f"""
  IF TG_OP = 'UPDATE' AND OLD.{table.row} <> NEW.{table.row} THEN
    INSERT INTO change_log (revision, table_name, row_id, operation)
    VALUES (number, '{table.name}', OLD.{table.row}, 'update');
  END IF;"""


def _postgresql_history(table: LoggedTable, history: History) -> str:
    key = ", ".join(f"'{column}', touched.{column}" for column in history.key)
    return f"""
  INSERT INTO rule_history ({_HISTORY_COLUMNS})
  SELECT number, '{table.name}', {_block_id(history, "touched")}, {_layer_id(history, "touched")},
         json_build_object({key}), lower(TG_OP), before, after, clock_timestamp(), r.author
  FROM policy_revisions r WHERE r.id = number;"""
