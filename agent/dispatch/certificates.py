"""Certificates: those that a peer showed, checked or not."""

import ssl
from collections.abc import Sequence
from typing import Any

#: OpenSSL's number for this form, for Pythons before 3.13.
_DER = 2


def peer_chain(tls: ssl.SSLObject | ssl.SSLSocket) -> Sequence[bytes]:
    """The certificates that the peer sent (DER, its own first); none if it sent none."""
    public: Any = getattr(tls, "get_unverified_chain", None)
    if public is not None:
        return tuple(public())
    # Before Python 3.13 only the object below has it.
    inner: Any = tls._sslobj  # type: ignore[union-attr]
    return tuple(one.public_bytes(_DER) for one in inner.get_unverified_chain() or ())
