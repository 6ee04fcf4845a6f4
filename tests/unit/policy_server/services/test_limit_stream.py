"""What a worker hears whose report the book does not know of any more."""

import pytest

from policy_server.errors import Aborted, Unavailable
from policy_server.lending.port import Taken
from policy_server.services.limit_stream import why_unheard


@pytest.mark.parametrize(("taken_in", "kind"), [(7, Aborted), (6, Unavailable)])
def test_a_book_begun_anew_is_no_later_start_of_the_worker(taken_in, kind):
    error = why_unheard(Taken(epoch=7, sequence=0), taken_in)

    assert isinstance(error, kind)
    assert ("begun anew" in str(error)) == (kind is Unavailable)
