"""
The connection to the policy server: one channel a process, shared by its clients; leases have
their own.
"""

import json
from typing import Any

import grpc

_SERVICE_CONFIG = {
    "methodConfig": [
        {
            "name": [
                {"service": "penstock.v1.PolicyService", "method": "BatchGetEgressPathConfigs"}
            ],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.1s",
                "maxBackoff": "2s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ],
    "retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1},
}
_OPTIONS: list[tuple[str, str | int]] = [
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.enable_retries", 1),
    ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
    # The watch and the uploader back off by themselves, with jitter, up to 30 s. The channel's
    # own delay comes on top of theirs, so it is kept short.
    ("grpc.initial_reconnect_backoff_ms", 500),
    ("grpc.min_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 5_000),
]


def open_channel(target: str, *, is_shared: bool = True) -> grpc.aio.Channel:
    """
    Open the channel to the policy server at *target*, `host:port`; it connects when used. One that
    is not *is_shared* has a connection of its own, which ends with it.
    """
    options = [*_OPTIONS, ("grpc.use_local_subchannel_pool", int(not is_shared))]
    return grpc.aio.insecure_channel(target, options=options)


def identity(agent_name: str, worker: str = "") -> tuple[tuple[str, str], ...]:
    """
    Return the metadata by which a call says who makes it; *worker* names one of several processes
    of an agent, each of which is told of changes by itself.
    """
    agent = (("penstock-agent", agent_name),)
    return (*agent, ("penstock-worker", worker)) if worker else agent


async def raise_failure(call: Any) -> None:
    """Raise the error that a stream has ended with; return if it has ended well."""
    if await call.code() is not grpc.StatusCode.OK:
        raise grpc.aio.AioRpcError(
            await call.code(),
            await call.initial_metadata(),
            await call.trailing_metadata(),
            await call.details(),
        )
