"""Rules and questions made at random, of few enough names that they often concern each other."""

from dataclasses import replace
from datetime import timedelta

from hypothesis import strategies as st

from policy_server.rules.layers import Block, Layer, MatchKind, ProviderMatch, Scope
from policy_server.rules.values import Limit, Rate
from tests.unit.policy_server.rules.drafts import ask

MX = {
    "a.example": [(1, "mx.one.example")],
    "b.example": [(1, "mx.one.example")],
    "c.example": [(1, "mx.two.example")],
    "d.example": [],
    "e.example": [(0, ".")],
}
LIMITS = st.builds(Limit, st.integers(1, 9), st.booleans())
RATES = st.builds(Rate, st.integers(1, 9), st.just(timedelta(seconds=60)))
OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "connection_limit": LIMITS | st.none(),
        "max_message_rate": RATES | st.none(),
        "max_ready": st.integers(1, 9),
        "data_timeout": st.timedeltas(timedelta(), timedelta(seconds=9)) | st.none(),
        "enable_tls": st.sampled_from(["Required", "Disabled"]),
        "skip_hosts": st.just(("192.0.2.1",)),
        "additional_connection_limits": st.dictionaries(st.sampled_from("xy"), LIMITS) | st.none(),
    },
)
PROVIDER_OPTIONS = st.builds(
    lambda some, more: {**some, **more},
    OPTIONS,
    st.fixed_dictionaries(
        {},
        optional={
            "provider_connection_limit": LIMITS | st.none(),
            "provider_max_message_rate": RATES | st.none(),
        },
    ),
)
PATTERNS = st.lists(
    st.builds(
        lambda kind, value: ProviderMatch(kind=kind, value=value),
        st.sampled_from(MatchKind),
        st.sampled_from([".example", ".one.example", "mx.two.example", "a.example"]),
    ),
    max_size=2,
).map(tuple)


@st.composite
def made_blocks(draw):
    scope = draw(st.sampled_from(Scope))
    is_provider = scope is Scope.PROVIDER
    names = {
        Scope.DEFAULT: [""],
        Scope.PROVIDER: ["p", "q"],
        Scope.DOMAIN: ["a.example", "b.example", "c.example", "unknown.example"],
    }
    source = draw(st.sampled_from(["", "", "ip-1"]))
    return Block(
        id=draw(st.integers(1, 10**6)),
        layer="",
        scope=scope,
        name=draw(st.sampled_from(names[scope])),
        source=source,
        mx_rollup=scope is not Scope.DOMAIN or draw(st.booleans()),
        replace_base=draw(st.sampled_from([False, False, True])),
        options=draw(PROVIDER_OPTIONS if is_provider else OPTIONS),
        matches=draw(PATTERNS) if is_provider and not source else (),
    )


@st.composite
def made_layers(draw):
    layers = []
    for number, blocks in enumerate(
        draw(st.lists(st.lists(made_blocks(), max_size=6), max_size=3))
    ):
        name = f"layer{number}"
        named = tuple(replace(block, layer=name) for block in blocks)
        layers.append(Layer(id=number + 1, name=name, blocks=named))
    return layers


QUESTIONS = st.builds(
    lambda domain, source: ask(MX, domain, source),
    st.sampled_from([*MX, "unknown.example"]),
    st.sampled_from(["ip-1", "ip-2"]),
)
