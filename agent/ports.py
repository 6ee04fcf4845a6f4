"""Ports: what stands in the way of listening, told by the setting that names the port."""

import contextlib
import os
import socket
from collections.abc import Iterator

from agent.errors import PortUnavailable
from agent.setting_values import Address


@contextlib.contextmanager
def listening_on(setting: str, address: Address) -> Iterator[None]:
    """
    Name *setting* and *address* in whatever keeps the block from listening there. Errors:
    `PortUnavailable`.
    """
    try:
        yield
    except OSError as error:
        raise PortUnavailable(f"{setting} {address}: {_reason(error)}") from error
    except RuntimeError as error:
        # gRPC tells no reason; the system does.
        raise PortUnavailable(f"{setting} {address}: {_why_not(address)}") from error


def _reason(error: OSError) -> str:
    # What asyncio and uvloop write into the error repeats the address, each in its own way.
    known = os.strerror(error.errno) if error.errno and error.errno > 0 else ""
    text = known or error.strerror or str(error)
    return text[:1].lower() + text[1:]


def _why_not(address: Address) -> str:
    try:
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind((address.host, address.port))
    except OSError as error:
        return _reason(error)
    return "can't be listened on"
