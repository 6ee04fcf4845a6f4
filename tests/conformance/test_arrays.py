"""Arrays are read by PostgreSQL as what they were written from."""

from datetime import UTC

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from policy_server.store.arrays import write_array

#: What no text in PostgreSQL may have.
_texts = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"])) | st.text(
    st.sampled_from("\\\"{}, \n'%a")
)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("text", st.sampled_from(["NULL", "null", "", " a ", '","']) | _texts),
        ("timestamptz", st.datetimes(timezones=st.just(UTC))),
        ("bigint", st.integers(-(2**63), 2**63 - 1)),
        ("boolean", st.booleans()),
    ],
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_an_array_is_read_as_it_was_written(database, kind, values, data):
    if database.is_sqlite:
        pytest.skip("it has no arrays")
    expected = data.draw(st.lists(values, max_size=5))

    read = database.read_now(
        lambda connection: connection.exec_driver_sql(
            f"SELECT unnest(%s::{kind}[])", (write_array(expected),)
        ).all()
    )

    assert [value for (value,) in read] == expected
