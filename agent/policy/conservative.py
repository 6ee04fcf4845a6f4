"""
Conservative: how a path is used once the last answer for it is older than `max_stale`.

The path keeps its name and what is no limit (TLS mode, port, credentials, hosts): dropping those
could send mail in the clear or to the wrong place. Its limits are tightened to the ones below,
and never loosened. Pure; reads no clock.
"""

from dataclasses import replace

from google.protobuf.duration_pb2 import Duration

from agent.policy.answer import PathPolicy
from penstock.v1.egress_path_pb2 import EgressPathConfig, Limit, Rate

#: What may be done on a path of which nothing has been heard for too long.
CONSERVATIVE = EgressPathConfig(
    connection_limit=Limit(value=1, local=True),
    max_connection_rate=Rate(count=6, period=Duration(seconds=60), max_burst=1, local=True),
    max_message_rate=Rate(count=6, period=Duration(seconds=60), max_burst=1, local=True),
    max_deliveries_per_connection=20,
    max_recipients_per_batch=10,
    consecutive_connection_failures_before_delay=1,
)

_LIMITS = ("connection_limit",)
_RATES = ("max_connection_rate", "max_message_rate")
_COUNTS = (
    "max_deliveries_per_connection",
    "max_recipients_per_batch",
    "consecutive_connection_failures_before_delay",
)


def conservative_policy(policy: PathPolicy) -> PathPolicy:
    """Return *policy* with every limit at most as wide as `CONSERVATIVE`."""
    config = EgressPathConfig()
    config.CopyFrom(policy.config)
    for name in _LIMITS:
        if config.HasField(name):
            known = getattr(config, name)
            known.value = min(known.value, getattr(CONSERVATIVE, name).value)
        else:
            getattr(config, name).CopyFrom(getattr(CONSERVATIVE, name))
    for name in _RATES:
        known = getattr(config, name) if config.HasField(name) else None
        getattr(config, name).CopyFrom(_slower(known, getattr(CONSERVATIVE, name)))
    for name in _COUNTS:
        most = getattr(CONSERVATIVE, name)
        known = getattr(config, name) if config.HasField(name) else most
        setattr(config, name, min(known, most))
    return replace(policy, config=config, etag=f"{policy.etag}-conservative")


def _slower(known: Rate | None, most: Rate) -> Rate:
    """Return the slower rate of the two, without a burst."""
    if known is None or known.count * _nanos(most) >= most.count * _nanos(known):
        return most
    slow = Rate()
    slow.CopyFrom(known)
    slow.max_burst = 1
    return slow


def _nanos(rate: Rate) -> int:
    return rate.period.seconds * 1_000_000_000 + rate.period.nanos
