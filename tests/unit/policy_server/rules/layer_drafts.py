"""Layers that have nothing wrong, made at random: with comments, any names, any order."""

from dataclasses import replace

from hypothesis import strategies as st

from policy_server.rules.export import find_obstacles
from policy_server.rules.layers import AutomationDraft, BlockDraft, LayerDraft, Scope

_NO_CONTROL = st.characters(
    codec="utf-8", exclude_categories=["Cs"], exclude_characters="".join(map(chr, range(32)))
    + "\x7f"
)  # fmt: skip
_texts = st.text(_NO_CONTROL, max_size=12)
_names = st.text(_NO_CONTROL, min_size=1, max_size=12) | st.sampled_from(
    ["sources", "automation", "default", "provider", "a.b", 'quo"te', "back\\slash", "#"]
)
_lines = _texts.map(str.rstrip)
_trailing = _lines | st.just("")
_comments = st.builds(
    lambda above, trailing: "".join(f"{line}\n" for line in above) + trailing.strip(),
    st.lists(_lines, max_size=2),
    _trailing,
)
_descriptions = st.lists(_lines, max_size=3).map(lambda lines: "\n".join(lines).strip("\n"))

_OPTIONS = {
    "connection_limit": st.integers(1, 10**6) | st.sampled_from(["local:20", "1,000"]),
    "max_message_rate": st.sampled_from(["100/s", "1,000/2min,max_burst=1_0", "local:5/300s"]),
    "idle_timeout": st.sampled_from([1, 1.5, 1e-3, "90m", "1h30m"]),
    "enable_tls": st.sampled_from(["Required", "Disabled"]),
    "enable_dane": st.booleans(),
    "ehlo_domain": _texts,
    "prohibited_hosts": st.lists(st.sampled_from(["10.0.0.0/8", "::1"]), max_size=12),
    "rustls_cipher_suites": st.lists(_texts, max_size=3),
    "additional_connection_limits": st.dictionaries(_names, st.integers(1, 9), max_size=3),
    "smtp_auth_plain_password": st.sampled_from(["/etc/secret", {"env": "SECRET"}]),
}
_options = st.lists(st.sampled_from(sorted(_OPTIONS)), unique=True, max_size=4).flatmap(
    lambda names: st.fixed_dictionaries({name: st.none() | _OPTIONS[name] for name in names})
)
_automation = st.builds(
    AutomationDraft,
    regexes=st.lists(
        st.sampled_from(["busy", r"\d+\.\d+", "it's", 'say "no"', "two\nlines", r"it's \d"]),
        min_size=1,
        max_size=3,
    ).map(tuple),
    actions=st.lists(
        st.sampled_from(
            ["Suspend", "SuspendTenant", {"SetConfig": {"name": "max_ready", "value": 5}}]
        ),
        min_size=1,
        max_size=2,
    ).map(tuple),
    trigger=st.sampled_from(["Immediate", {"Threshold": "10/h"}]),
    duration=st.sampled_from([60, 1.5, "1 hour"]),
    match_internal=st.booleans(),
    mode=st.sampled_from(["enforce", "observe"]),
    enabled=st.booleans(),
    comment=_comments,
)
_MATCHES = [("mx_suffix", ".a.example"), ("host_name", "mx.a.example"), ("domain_suffix", "b")]
_places = st.one_of(
    st.tuples(st.just(Scope.DEFAULT), st.just(""), st.just(True)),
    st.tuples(st.just(Scope.PROVIDER), _names, st.just(True)),
    st.tuples(st.just(Scope.DOMAIN), st.sampled_from(["a.example", "b.example"]), st.booleans()),
    st.tuples(st.just(Scope.DOMAIN), _names, st.just(False)),
)


@st.composite
def _blocks(draw):
    scope, name, mx_rollup = draw(_places)
    source = draw(st.just("") | _names)
    options = _gather_unset(draw(_options))
    matches = ()
    if scope is Scope.PROVIDER and not source:
        matches = tuple(draw(st.lists(st.sampled_from(_MATCHES), unique=True, max_size=3)))
    return BlockDraft(
        scope=scope,
        name=name,
        source=source,
        mx_rollup=mx_rollup,
        replace_base=draw(st.booleans()),
        enabled=draw(st.booleans()),
        options=options,
        option_comments=_some(draw, options),
        matches=matches,
        match_comments=_some(draw, matches),
        automation=tuple(draw(st.lists(_automation, max_size=2))),
        comment=draw(_comments),
    )


def _some(draw, keys):
    return {key: text for key in keys if (text := draw(_comments))}


def _gather_unset(options):
    """Put what is unset together, as a file has one list of it."""
    unset = [name for name, value in options.items() if value is None]
    gathered: dict[str, object] = {}
    for name, value in options.items():
        gathered |= {name: value} if value is not None else dict.fromkeys(unset)
    return gathered


layer_drafts = st.builds(
    lambda description, blocks: LayerDraft(
        name="made", description=description, blocks=tuple(blocks)
    ),
    _descriptions,
    st.lists(_blocks(), max_size=5),
).filter(lambda layer: not find_obstacles(layer))


def without_places(layer):
    """Leave out numbers and lines, which say where a draft is from, and freeze the order."""
    return replace(
        layer,
        id=0,
        file="",
        blocks=tuple(
            replace(
                block,
                id=0,
                line=None,
                option_lines={},
                options=list(block.options.items()),
                option_comments=dict(block.option_comments),
                match_comments=dict(block.match_comments),
                automation=tuple(
                    replace(rule, id=0, line=None, field_lines={}) for rule in block.automation
                ),
            )
            for block in layer.blocks
        ),
    )
