"""
Effective: what a stored answer means at a given moment.

The server sends each answer with the actions applied in it, when each of them ends, and the
configuration that holds without them. So an override ends at its time by the agent's own clock,
even while the server is away. This module does no input or output and reads no clock.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass

from agent.limits.limit import LimitPath
from agent.policy import limit_refs
from agent.policy.answer import MxHost, PathPolicy
from penstock.v1.egress_path_pb2 import EgressPathConfig
from penstock.v1.policy_service_pb2 import GetEgressPathConfigResponse, OverrideRef

_OPTIONS = frozenset(EgressPathConfig.DESCRIPTOR.fields_by_name)


@dataclass(frozen=True, slots=True, kw_only=True)
class PathKey:
    """What an answer is stored under."""

    routing_domain: str
    egress_source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredAnswer:
    """An answer as the server gave it; never changed once stored."""

    key: PathKey
    #: The MX answer that the question was asked with.
    mx_hosts: tuple[MxHost, ...]
    response: GetEgressPathConfigResponse
    #: When the server last gave or confirmed it, seconds since the epoch.
    heard: float


def effective_policy(answer: StoredAnswer, now: float) -> PathPolicy:
    """
    Work out the policy in force at *now*.

    An option falls back to its ruled value once every override of it has ended: with two
    overrides on one option the answer does not tell whose value is in it, so the last one holds.
    The etag changes with the configuration, so that it may be used to notice a change.
    """
    response = answer.response
    ended = _ended_options(response, now)
    config, etag = response.config, response.etag
    if ended:
        config = _with_options_of(response.ruled_config, config, ended)
        etag = f"{etag}-{'-'.join(sorted(ended))}"
    return PathPolicy(
        routing_domain=answer.key.routing_domain,
        egress_source=answer.key.egress_source,
        site_name=response.site_name,
        path_name=response.path_name,
        provider_name=_provider_name(response),
        config=config,
        etag=etag,
        revision=response.revision,
        fleet_limits=limit_refs.fleet_limits_of(response, _limit_path(answer)),
    )


def next_override_end(answer: StoredAnswer, now: float) -> float:
    """Return when the next override after *now* ends, in seconds since the epoch; else infinity."""
    ends = (_end_of(override) for override in answer.response.overrides)
    return min((end for end in ends if end > now), default=math.inf)


def why_unusable(response: GetEgressPathConfigResponse) -> str:
    """Say why an answer cannot be applied; empty if it can."""
    if not response.HasField("config"):
        return "the answer has no config"
    if not response.path_name:
        return "the answer has no path_name"
    if response.config.HasField("connection_limit") and not response.config.connection_limit.value:
        return "connection_limit is 0, expected at least 1"
    if response.overrides and not response.HasField("ruled_config"):
        return "the answer has overrides but no ruled_config to fall back to"
    return next(filter(None, map(limit_refs.why_unusable, response.limit_refs)), "")


def _limit_path(answer: StoredAnswer) -> LimitPath:
    return LimitPath(
        routing_domain=answer.key.routing_domain,
        egress_source=answer.key.egress_source,
        mx_hosts=tuple((host.host, host.preference) for host in answer.mx_hosts),
    )


def _ended_options(response: GetEgressPathConfigResponse, now: float) -> set[str]:
    holding: set[str] = set()
    named: set[str] = set()
    for override in response.overrides:
        named.add(override.option)
        if _end_of(override) > now:
            holding.add(override.option)
    return (named - holding) & _OPTIONS


def _with_options_of(
    source: EgressPathConfig, config: EgressPathConfig, options: Collection[str]
) -> EgressPathConfig:
    """Return *config* with *options* as they are in *source*, unset ones unset."""
    taken = EgressPathConfig()
    taken.CopyFrom(source)
    for field, _ in source.ListFields():
        if field.name not in options:
            taken.ClearField(field.name)
    merged = EgressPathConfig()
    merged.CopyFrom(config)
    for name in options:
        merged.ClearField(name)
    merged.MergeFrom(taken)
    return merged


def _provider_name(response: GetEgressPathConfigResponse) -> str:
    if response.config.provider_name:
        return response.config.provider_name
    return response.provider_names[-1] if response.provider_names else ""


def _end_of(override: OverrideRef) -> float:
    """When the override ends by itself; a pinned one never does."""
    if not override.HasField("expire_time"):
        return math.inf
    return float(override.expire_time.seconds) + override.expire_time.nanos / 1e9
