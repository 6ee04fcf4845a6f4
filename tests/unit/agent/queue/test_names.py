import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.queue.names import QueueName, label_mistake, parse_queue_name


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        pytest.param("example.com", {"domain": "example.com"}, id="domain alone"),
        pytest.param("t@d.com", {"tenant": "t", "domain": "d.com"}, id="tenant"),
        pytest.param("c:t@d.com", {"campaign": "c", "tenant": "t", "domain": "d.com"}, id="both"),
        pytest.param("c:@d.com", {"campaign": "c", "domain": "d.com"}, id="campaign alone"),
        pytest.param(
            "t@d.com!r.net",
            {"tenant": "t", "domain": "d.com", "routing_domain": "r.net"},
            id="routed elsewhere",
        ),
    ],
)
def test_a_name_reads_as_it_is_written(text, parts):
    assert parse_queue_name(text) == QueueName(**parts)
    assert str(QueueName(**parts)) == text


@pytest.mark.parametrize("text", ["", "@d.com", "a@b@d.com", "t@", "x:y:z@d.com", "!r.net"])
def test_what_is_no_name_is_refused(text):
    with pytest.raises(ValueError, match=r".+"):
        parse_queue_name(text)


@pytest.mark.parametrize(
    ("label", "is_fine"),
    [("news", True), ("", True), ("a b", True), ("a!b", True), ("ä", True)]
    + [(text, False) for text in ("a@b", "a:b", " a", "a ", "a\nb", "a\x00", "x" * 129)],
)
def test_labels_that_a_name_cannot_hold_have_a_mistake(label, is_fine):
    assert (label_mistake(label) == "") is is_fine


labels = st.text(max_size=12).filter(lambda text: not label_mistake(text))
domains = st.from_regex(r"[a-z0-9-]{1,9}(\.[a-z0-9-]{1,9}){0,2}", fullmatch=True)


@given(domains, labels, labels, st.just("") | domains)
def test_every_name_survives_being_written_and_read(domain, tenant, campaign, routing_domain):
    name = QueueName(domain=domain, tenant=tenant, campaign=campaign, routing_domain=routing_domain)

    assert parse_queue_name(str(name)) == name
    assert name.next_domain == (routing_domain or domain)
