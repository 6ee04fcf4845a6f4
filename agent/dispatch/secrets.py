"""Secrets: passwords and keys, read when they are needed and never logged."""

import os
from pathlib import Path

from agent.errors import AgentError
from penstock.v1.egress_path_pb2 import SecretRef


class SecretMissing(AgentError):
    """A secret can't be read where the rules say it stands."""


def read_secret(ref: SecretRef) -> str:
    """Read a secret; may touch the disk. Errors: `SecretMissing`, which names the place alone."""
    match ref.WhichOneof("source"):
        case "key_data":
            return ref.key_data
        case "env":
            if ref.env not in os.environ:
                raise SecretMissing(f"environment variable {ref.env} is not set")
            return os.environ[ref.env]
        case "path":
            return _read_file(ref.path)
        case _:
            raise SecretMissing("the secret says no place to read it from")


def _read_file(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise SecretMissing(f"{path}: can't be read") from error
