"""Engines: what errors mean, and how a PostgreSQL is reached."""

import sqlite3

import psycopg
import pytest
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, IntegrityError, InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from policy_server.errors import StoreRefused, StoreUnavailable
from policy_server.store.engines import connect_arguments, to_store_error


@pytest.mark.parametrize(
    ("error", "meant"),
    [
        pytest.param(
            OperationalError("SELECT 1", {}, sqlite3.OperationalError("database is locked")),
            StoreUnavailable,
            id="busy",
        ),
        pytest.param(
            OperationalError("SELECT 1", {}, psycopg.errors.LockNotAvailable("lock timeout")),
            StoreUnavailable,
            id="another holds the lock",
        ),
        pytest.param(
            OperationalError("SELECT 1", {}, psycopg.errors.AdminShutdown("terminating")),
            StoreUnavailable,
            id="the database ends",
        ),
        pytest.param(
            DBAPIError("SELECT 1", {}, Exception("gone"), connection_invalidated=True),
            StoreUnavailable,
            id="connection lost",
        ),
        pytest.param(PoolTimeoutError("no connection"), StoreUnavailable, id="too much at once"),
        pytest.param(
            InternalError("UPDATE", {}, psycopg.errors.ReadOnlySqlTransaction("read-only")),
            StoreUnavailable,
            id="a standby",
        ),
        pytest.param(
            IntegrityError("INSERT", {}, psycopg.errors.UniqueViolation("duplicate key")),
            StoreRefused,
            id="a constraint",
        ),
    ],
)
def test_an_error_says_whether_to_try_again(error, meant):
    assert type(to_store_error(error)) is meant


def test_a_refused_row_is_not_repeated():
    refused = psycopg.errors.CheckViolation('violates "x"\nDETAIL:  Failing row is (hunter2).')

    message = str(to_store_error(IntegrityError("INSERT", {}, refused)))

    assert message == 'database: violates "x"'


def test_what_the_url_says_of_a_connection_goes_before_what_we_say():
    url = make_url("postgresql://joe:pass@db.example:5433/rules?connect_timeout=2&sslmode=require")

    arguments = connect_arguments(url)

    assert {name: arguments[name] for name in ("host", "port", "user", "password", "dbname")} == {
        "host": "db.example",
        "port": 5433,
        "user": "joe",
        "password": "pass",
        "dbname": "rules",
    }
    assert (arguments["connect_timeout"], arguments["sslmode"]) == ("2", "require")
    assert arguments["tcp_user_timeout"] == 10_000
