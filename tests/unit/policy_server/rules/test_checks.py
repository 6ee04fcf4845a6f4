import pytest

from policy_server.rules.checks import CheckLevel, check_layers
from policy_server.rules.layers import Severity
from tests.unit.policy_server.rules.drafts import make_layer, make_sites

_MX = {
    "a.example": [(1, "mx.one.example")],
    "b.example": [(1, "mx.one.example")],
    "null.example": [(0, ".")],
    "straight.example": [(1, "a.x.example"), (2, "b.y.example")],
    "crossed.example": [(1, "a.x.example"), (2, "b.x.example"), (3, "a.y.example")],
}


@pytest.mark.parametrize(
    ("rules", "code"),
    [
        pytest.param('["a.example"]\n["b.example"]\n', "aliased_site", id="one site, two blocks"),
        pytest.param('["null.example"]\n', "null_mx", id="null MX"),
        pytest.param('["unknown.example"]\n', "dns_fail", id="no answer"),
        pytest.param(
            '["straight.example"]\n["crossed.example"]\n', "site_collision", id="same label"
        ),
        pytest.param(
            '["a.example"]\n[provider.p]\nmatch=[{MXSuffix=".one.example"}]\n',
            "provider_overlap",
            id="domain and provider",
        ),
        pytest.param("[provider.p]\nmax_ready = 5\n", "provider_without_match", id="no match"),
    ],
)
def test_check_finds_what_is_rarely_meant(rules, code):
    layer = make_layer("base", rules)

    (found,) = check_layers([layer], make_sites(_MX))
    ignored = check_layers([layer], make_sites(_MX), levels={code: CheckLevel.IGNORE})
    (error,) = check_layers([layer], make_sites(_MX), levels={code: CheckLevel.ERROR})

    assert (found.code, found.severity) == (code, Severity.WARNING)
    assert ignored == ()
    assert error.severity == Severity.ERROR


def test_rules_that_are_meant_raise_nothing():
    base = make_layer("base", '["a.example"]\n[provider.p]\nmatch=[{MXSuffix=".other"}]\n')
    custom = make_layer("custom", '["a.example"]\nmax_ready = 5\n["b.example"]\nmx_rollup=false\n')

    assert check_layers([base, custom], make_sites(_MX)) == ()


def test_failed_look_up_of_a_known_site_is_told_and_its_site_is_checked():
    layer = make_layer("base", '["a.example"]\n["b.example"]\n')

    found = check_layers([layer], make_sites(_MX), failed={"a.example"})

    assert [(issue.code, issue.value) for issue in found] == [
        ("dns_fail", "a.example"),
        ("aliased_site", "b.example"),
    ]
    assert "mx.one.example, stays in force" in found[0].message
