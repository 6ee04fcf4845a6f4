"""Proofs of grants: what a server of this database granted, and nobody else can have made."""

from hashlib import blake2b

from policy_server.limits.book import Signer

_SIZE = 16


def make_signer(secret: str) -> Signer:
    """Make what signs grants by a secret, up to 64 bytes in hexadecimal."""
    key = bytes.fromhex(secret)

    def sign(
        agent: str, incarnation: int, key_name: str, version: int, units: int, floor: int
    ) -> bytes:
        # Lengths first, so that no two grants read alike.
        text = (
            f"{len(agent)} {len(key_name)} {incarnation} {version} {units} {floor}\n"
            f"{agent}{key_name}"
        )
        return blake2b(text.encode(), key=key, digest_size=_SIZE).digest()

    return sign
