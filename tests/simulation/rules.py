"""The mail, the replies and the rules of the simulated fleet."""

from random import Random
from typing import Any

from agent.policy.answer import MxHost
from policy_server.rules.layers import AutomationDraft, BlockDraft, LayerDraft, Scope

#: Rules of this layer are never changed, so what they match can be reckoned afterwards.
COUNTED_LAYER = "automation"
SOURCES = ("ip-1", "ip-2")
TENANTS = ("", "t1", "t2")
CAMPAIGNS = ("", "c1")
_YAHOO = (
    MxHost(host="mta5.am0.yahoodns.net", preference=1),
    MxHost(host="mta6.am0.yahoodns.net", preference=1),
)
#: MX hosts by domain.
DOMAINS = {
    "yahoo.com": _YAHOO,
    "ymail.com": _YAHOO,
    "foo.example": (MxHost(host="mx.foo.example", preference=10),),
}
REPLIES = (
    "[TS01] deferred",
    "[TS02] try again shortly",
    "[TS03] too many users",
    "[TS03] slow down",
    "[TS03] busy",
    "please slow down",
    "briefly busy",
    "busy",
    "[TS04] tenant",
    "[TS05] campaign",
    "[TS06] no more",
    "[TS07] go away",
    "nothing to see",
    "2.0.0 OK",
)


#: Recovers within a run.
_ADJUST = {
    "AdjustConfig": {
        "name": "max_message_rate",
        "factor": 0.5,
        "floor": "10/min",
        "recover_step": 2,
        "recover_every": "8s",
    }
}


def counted_layer() -> LayerDraft:
    """The rules that are never changed."""
    provider = BlockDraft(
        scope=Scope.PROVIDER,
        name="yahoo",
        options={"connection_limit": 16, "max_message_rate": "120/min"},
        matches=(("mx_suffix", ".yahoodns.net"),),
        automation=(
            _rule(r"\[TS01\]", "Suspend"),
            _rule(r"\[TS02\]", "Suspend", duration="6s"),
            _rule(r"\[TS03\]", "Suspend", trigger={"Threshold": "4/20s"}),
            _rule("slow down", _set("connection_limit", 1)),
            _rule("briefly", _set("max_message_rate", "10/min"), duration="7s"),
            _rule(r"\[TS01\]", "Suspend", mode="observe", duration="2 hours"),
            _rule("briefly", _ADJUST),
        ),
    )
    default = BlockDraft(
        scope=Scope.DEFAULT,
        automation=(
            _rule("busy", _set("max_deliveries_per_connection", 5), trigger={"Threshold": "5/1hr"}),
            _rule(r"\[TS04\]", "SuspendTenant", duration="30s"),
            _rule(r"\[TS05\]", "SuspendCampaign"),
            _rule(r"\[TS06\]", "BounceTenant", duration="20s"),
            _rule(r"\[TS06\]", "BounceCampaign", trigger={"Threshold": "3/hr"}),
        ),
    )
    domain = BlockDraft(
        scope=Scope.DOMAIN,
        name="foo.example",
        mx_rollup=False,
        automation=(
            _rule(r"\[TS0[12]\]", "Suspend", duration="1 hour"),
            _rule("busy", {"SetDomainConfig": {"name": "idle_timeout", "value": 7}}),
            _rule(r"\[TS07\]", "Bounce", duration="15s"),
        ),
    )
    return LayerDraft(name=COUNTED_LAYER, blocks=(default, provider, domain))


def changing_layer(random: Random) -> LayerDraft:
    """Rules as somebody may write them anew at any time."""
    options: dict[str, Any] = {"max_connection_rate": f"{random.randint(1, 500)}/min"}
    if random.random() < 0.5:
        options["connection_limit"] = random.randint(2, 40)
    blocks = [BlockDraft(scope=Scope.DEFAULT, options=options)]
    if random.random() < 0.6:
        domain = random.choice(list(DOMAINS))
        limit = {"connection_limit": random.randint(2, 40)}
        automation: tuple[AutomationDraft, ...] = ()
        if random.random() < 0.5:
            automation = (_rule("deferred|shortly", _set("idle_timeout", random.randint(5, 90))),)
        blocks.append(
            BlockDraft(
                scope=Scope.DOMAIN,
                name=domain,
                source=random.choice(("", *SOURCES)),
                mx_rollup=random.random() < 0.5,
                options=limit,
                automation=automation,
            )
        )
    return LayerDraft(name="custom", blocks=tuple(blocks))


def _set(name: str, value: Any) -> dict[str, Any]:
    return {"SetConfig": {"name": name, "value": value}}


def _rule(regex: str, *actions: Any, **changes: Any) -> AutomationDraft:
    values: dict[str, Any] = {"duration": "1 hour"} | changes
    return AutomationDraft(regexes=(regex,), actions=actions, **values)
