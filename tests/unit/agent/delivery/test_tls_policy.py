from hypothesis import given
from hypothesis import strategies as st

from agent.delivery.dane import Matching, Selector, Tlsa, Usage
from agent.delivery.mta_sts import Mode, StsPolicy
from agent.delivery.tls import OPPORTUNISTIC, VERIFIED, TlsMode
from agent.delivery.tls_policy import (
    DaneFinding,
    DaneResult,
    DomainTls,
    HostRefused,
    TlsDemand,
    demand_for,
)

HOSTS = ("mx1.a.example", "mx2.a.example", "mx.b.example")
RECORD = Tlsa(
    usage=Usage.PEER, selector=Selector.PUBLIC_KEY, matching=Matching.SHA256, data=bytes(32)
)
#: The stricter, the larger; what checks nothing and what may go on without TLS are the least.
STRICTNESS = {
    TlsMode.DISABLED: 0,
    TlsMode.OPPORTUNISTIC_INSECURE: 1,
    TlsMode.OPPORTUNISTIC: 1,
    TlsMode.REQUIRED_INSECURE: 2,
    TlsMode.REQUIRED: 3,
}

policies = st.none() | st.builds(
    StsPolicy,
    mode=st.sampled_from([Mode.ENFORCE, Mode.TESTING]),
    mx=st.lists(st.sampled_from([*HOSTS, "*.a.example"]), unique=True, min_size=1).map(tuple),
    max_age=st.just(86400),
)
domains = st.builds(
    DomainTls,
    domain=st.sampled_from(["a.example", "b.example"]),
    sts=policies,
    is_secure=st.booleans(),
)
modes = st.sampled_from(TlsMode)
hosts = st.sampled_from(HOSTS)


def _finding(domain: DomainTls, result: DaneResult) -> DaneFinding:
    """Records count where the domain is secure alone."""
    if not domain.is_secure:
        return DaneFinding(result=DaneResult.INSECURE_CHAIN)
    records = (RECORD,) if result is DaneResult.OK else ()
    return DaneFinding(result=result, records=records, base="mx.base.example")


@given(modes, hosts, domains, st.sampled_from(DaneResult))
def test_a_domain_never_lowers_what_the_path_asks(mode, host, domain, result):
    demand = demand_for(mode, host, domain=domain, dane=_finding(domain, result))

    if isinstance(demand, TlsDemand):
        assert STRICTNESS[demand.mode] >= STRICTNESS[mode]


@given(modes, hosts, domains, st.sampled_from(DaneResult))
def test_nothing_goes_to_a_host_without_what_its_domain_enforces(mode, host, domain, result):
    finding = _finding(domain, result)
    demand = demand_for(mode, host, domain=domain, dane=finding)

    if finding.result is DaneResult.TEMPFAIL:
        assert isinstance(demand, HostRefused)
    elif finding.result is DaneResult.OK:
        assert (demand.mode, demand.records) == (TlsMode.REQUIRED, (RECORD,))
        assert set(demand.names) == {"mx.base.example", domain.domain}
    elif domain.is_enforced:
        is_named = domain.sts.permits(host)
        assert isinstance(demand, TlsDemand) == is_named
        assert not is_named or (demand.mode is TlsMode.REQUIRED and not demand.records)
    elif finding.result is DaneResult.UNUSABLE:
        assert demand.mode not in OPPORTUNISTIC | {TlsMode.DISABLED}
    else:
        assert demand.mode is mode


@given(modes, hosts, policies)
def test_testing_changes_nothing_but_is_told(mode, host, policy):
    domain = DomainTls(domain="a.example", sts=policy)
    demand = demand_for(mode, host, domain=domain, dane=_finding(domain, DaneResult.OK))

    if policy is not None and policy.mode is Mode.TESTING:
        assert demand.mode is mode
        assert bool(demand.complaint) == (not policy.permits(host))


@given(domains, domains, hosts, modes, st.sampled_from(DaneResult))
def test_mail_goes_over_anothers_session_only_where_its_own_would_be_no_stricter(
    own, other, host, mode, result
):
    """What DANE says of a host is the same for all domains that are secure."""
    if not own.may_have(host) or not own.covers(other, HOSTS):
        return
    opened = demand_for(mode, host, domain=own, dane=_finding(own, result))
    wanted = demand_for(mode, host, domain=other, dane=_finding(other, result))
    if isinstance(opened, HostRefused):
        return

    assert isinstance(wanted, TlsDemand)
    assert STRICTNESS[opened.mode] >= STRICTNESS[wanted.mode]
    assert opened.mode in VERIFIED or wanted.mode not in VERIFIED or mode in VERIFIED
    assert opened.records == wanted.records or not other.is_enforced


@given(domains)
def test_a_domain_covers_itself(domain):
    assert domain.covers(domain, HOSTS)
