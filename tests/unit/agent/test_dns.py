import pytest

from agent.dns import Resolver


@pytest.mark.parametrize(
    ("nameservers", "trust_ad", "expected"),
    [
        (["127.0.0.1:53"], None, True),
        (["127.0.0.1:53", "[::1]:53"], None, True),
        (["127.0.0.1:53", "192.0.2.1:53"], None, False),
        (["192.0.2.1:53"], True, True),
        (["127.0.0.1:53"], False, False),
    ],
)
def test_the_word_of_a_resolver_counts_where_the_way_to_it_is_safe(nameservers, trust_ad, expected):
    assert Resolver(nameservers, trust_ad=trust_ad).trusts_ad is expected
