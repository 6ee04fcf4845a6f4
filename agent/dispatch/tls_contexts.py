"""
TlsContexts: the TLS settings of connections, built once a configuration and off the event loop:
loading the trusted certificates takes tens of milliseconds.
"""

import asyncio
import ssl
import tempfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from agent.delivery.tls import VERIFIED, TlsMode
from agent.dispatch.options import PathOptions
from agent.dispatch.secrets import SecretMissing, read_secret
from penstock.v1.egress_path_pb2 import EgressPathConfig

_MOST_CONTEXTS = 256
#: How long a context with secrets is used before they are read again, in seconds.
_SECRETS_LIFETIME = 300.0


#: What `openssl_options` may name, without OpenSSL's prefix.
_OPTIONS = {
    name.removeprefix("OP_").upper(): int(getattr(ssl, name))
    for name in dir(ssl)
    if name.startswith("OP_")
}


class TlsUnusable(SecretMissing):
    """The path's TLS options can't be put into effect."""


@dataclass(frozen=True, slots=True)
class _Key:
    is_verified: bool
    cipher_list: str
    cipher_suites: str
    options: str
    certificate: bytes
    private_key: bytes


class TlsContexts:
    """Contexts by what they are made from."""

    def __init__(
        self, *, clock: Callable[[], float], trusted: Callable[[], ssl.SSLContext] | None = None
    ) -> None:
        """*trusted* makes a verifying client context; default: the system's certificates."""
        self._clock = clock
        self._trusted = trusted or ssl.create_default_context
        self._contexts: OrderedDict[_Key, tuple[ssl.SSLContext, float]] = OrderedDict()
        self._lock = asyncio.Lock()

    async def context(
        self, options: PathOptions, *, is_verified: bool | None = None
    ) -> ssl.SSLContext:
        """
        The context for a path; *is_verified*: whether it checks certificates, None: as the path's
        mode asks. Errors: `TlsUnusable`.
        """
        key = _key(
            options, is_verified_mode(options.tls_mode) if is_verified is None else is_verified
        )
        if found := self._fresh(key):
            return found
        async with self._lock:
            if found := self._fresh(key):
                return found
            context = await asyncio.to_thread(self._build, key, options)
            until = self._clock() + _SECRETS_LIFETIME if key.certificate else float("inf")
            self._contexts[key] = (context, until)
            while len(self._contexts) > _MOST_CONTEXTS:
                self._contexts.popitem(last=False)
            return context

    def _fresh(self, key: _Key) -> ssl.SSLContext | None:
        found = self._contexts.get(key)
        return found[0] if found and found[1] > self._clock() else None

    def _build(self, key: _Key, options: PathOptions) -> ssl.SSLContext:
        try:
            context = self._trusted()
            if not key.is_verified:
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
            if key.cipher_list:
                context.set_ciphers(key.cipher_list)
            if key.cipher_suites and (set_suites := _suite_setter(context)) is not None:
                set_suites(key.cipher_suites)
            if key.options:
                context.options |= _openssl_options(key.options)[0]
            if options.config.HasField("tls_certificate"):
                _load_client_certificate(context, options)
        except (ssl.SSLError, OSError, ValueError) as error:
            # An error's own text may hold what it choked on.
            raise TlsUnusable(f"TLS options can't be used: {type(error).__name__}") from error
        return context


def _key(options: PathOptions, is_verified: bool) -> _Key:
    config = options.config
    return _Key(
        is_verified=is_verified,
        cipher_list=config.openssl_cipher_list,
        cipher_suites=config.openssl_cipher_suites,
        options=config.openssl_options,
        certificate=config.tls_certificate.SerializeToString(deterministic=True),
        private_key=config.tls_private_key.SerializeToString(deterministic=True),
    )


def without_effect(config: EgressPathConfig) -> list[str]:
    """Say which TLS options of *config* can't be put into effect; the rest is."""
    found = []
    if config.openssl_cipher_suites and _suite_setter(ssl.SSLContext) is None:
        found.append(
            "openssl_cipher_suites: needs Python 3.15; its ssl module is the first to know"
        )
    if unknown := _openssl_options(config.openssl_options)[1]:
        found.append(f"openssl_options: unknown to this Python's ssl module: {', '.join(unknown)}")
    return found


def _suite_setter(context: object) -> Callable[[str], None] | None:
    """What sets the suites of TLS 1.3, where this Python has it (3.15 and later)."""
    setter: Callable[[str], None] | None = getattr(context, "set_ciphersuites", None)
    return setter


def _openssl_options(text: str) -> tuple[int, list[str]]:
    """The options in *text*, and the names in it that stand for none."""
    options, unknown = 0, []
    for part in text.split("|"):
        name = part.strip()
        known = _OPTIONS.get(name.upper().removeprefix("SSL_").removeprefix("OP_"))
        if known is not None:
            options |= known
        elif name:
            unknown.append(name)
    return options, unknown


def is_verified_mode(mode: TlsMode) -> bool:
    """Whether the mode checks certificates."""
    return mode in VERIFIED


def _load_client_certificate(context: ssl.SSLContext, options: PathOptions) -> None:
    certificate = read_secret(options.config.tls_certificate)
    private_key = read_secret(options.config.tls_private_key)
    # OpenSSL's loader takes files only; a private directory that is gone at once.
    with tempfile.TemporaryDirectory(prefix="penstock-") as directory:
        path = Path(directory) / "client.pem"
        path.touch(mode=0o600)
        path.write_text(f"{certificate}\n{private_key}\n", encoding="utf-8")
        context.load_cert_chain(path)
