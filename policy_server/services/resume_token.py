"""
The token a watching client goes on from: which database, which revision, what was watched.

It is opaque to clients; pure code.
"""

import hashlib
import json
from dataclasses import dataclass

_VERSION = 2
#: Longer ones are none of ours.
_MAX_LENGTH = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumeToken:
    """Where a client is."""

    datastore: str
    #: Suspensions are known to the client up to this revision.
    revision: int
    #: Of that revision: a backup that was put back has another past.
    stamp: str
    #: Hash of what kinds of things the stream watches.
    filter_hash: str


def hash_filter(*kinds: str) -> str:
    """Hash the kinds of things that a stream watches besides its named paths."""
    return hashlib.sha256("\n".join(sorted(kinds)).encode()).hexdigest()[:8]


def encode_token(token: ResumeToken) -> bytes:
    """Write a token."""
    return json.dumps(
        [_VERSION, token.datastore, token.revision, token.stamp, token.filter_hash],
        separators=(",", ":"),
    ).encode()


def decode_token(raw: bytes) -> ResumeToken | None:
    """Read a token; None if it is none of ours."""
    if not raw or len(raw) > _MAX_LENGTH:
        return None
    try:
        version, datastore, revision, stamp, filter_hash = json.loads(raw)
    except (ValueError, TypeError, RecursionError):
        return None
    if version != _VERSION or not isinstance(revision, int):
        return None
    return ResumeToken(
        datastore=str(datastore),
        revision=revision,
        stamp=str(stamp),
        filter_hash=str(filter_hash),
    )
