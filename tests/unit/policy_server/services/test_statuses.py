"""Errors as clients see them."""

from datetime import timedelta

import grpc
import pytest
from google.rpc import error_details_pb2

from policy_server import errors
from policy_server.services.statuses import (
    STATUS_CODES,
    build_status,
    status_code,
    status_message,
)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.InvalidRequest("x"), "INVALID_ARGUMENT"),
        (errors.NotFound(), "NOT_FOUND"),
        (errors.DomainNotFound(), "NOT_FOUND"),
        (errors.Aborted(), "ABORTED"),
        (errors.Unavailable(), "UNAVAILABLE"),
        (errors.RulesNotLoaded(), "UNAVAILABLE"),
        (errors.DnsUnavailable(), "UNAVAILABLE"),
        (errors.StoreUnavailable(), "UNAVAILABLE"),
        (errors.WrongSchema(), "FAILED_PRECONDITION"),
        (errors.StoreRefused("SELECT secret"), "INTERNAL"),
        (RuntimeError("secret"), "INTERNAL"),
    ],
)
def test_each_error_has_its_status(error, code):
    assert status_code(error) is grpc.StatusCode[code]


def test_no_row_of_the_table_hides_a_later_one():
    for index, (kind, _) in enumerate(STATUS_CODES):
        assert not any(issubclass(kind, earlier) for earlier, _ in STATUS_CODES[:index])


@pytest.mark.parametrize("error", [RuntimeError("secret"), errors.StoreRefused("secret")])
def test_what_nobody_foresaw_stays_inside(error):
    assert "secret" not in status_message(error)
    assert "secret" not in str(build_status(error))


def test_an_error_without_words_says_its_own():
    assert str(errors.RulesNotLoaded()) == "The rules are not loaded yet; try again."


def test_a_bad_request_names_the_field():
    status = build_status(errors.InvalidRequest("too long", field="egress_source"))

    details = error_details_pb2.BadRequest()
    assert status.details[0].Unpack(details)
    (violation,) = details.field_violations
    assert (violation.field, violation.description) == ("egress_source", "too long")


def test_an_unavailable_server_says_when_to_come_back():
    status = build_status(errors.Unavailable("busy", retry_delay=timedelta(seconds=3)))

    details = error_details_pb2.RetryInfo()
    assert status.details[0].Unpack(details)
    assert details.retry_delay.ToTimedelta() == timedelta(seconds=3)
