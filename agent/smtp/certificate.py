"""
Certificate: what the SMTP port shows clients that ask for TLS, read anew when its files change.

Files that are no good are told at start; at a later change they are left alone and the last good
ones are used on, so that a renewal that goes wrong, or is half done, stops no mail.
"""

import logging
import os
import ssl
from dataclasses import dataclass
from pathlib import Path

from agent.errors import SettingsError

logger = logging.getLogger(__name__)

_CERTIFICATE = "listen.tls_certificate"
_PRIVATE_KEY = "listen.tls_private_key"

#: What tells whether a file is another than before: time of change, size, number.
_Stamp = tuple[int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateFiles:
    """Where the certificate, with its chain, and its private key are; PEM."""

    certificate: Path
    private_key: Path

    def stamps(self) -> tuple[_Stamp | None, _Stamp | None]:
        """What the files are like now; None: not there, or not to be seen."""
        return _stamp(self.certificate), _stamp(self.private_key)


class Certificate:
    """A TLS context made from files, and made anew when they change."""

    def __init__(self, files: CertificateFiles) -> None:
        """Read *files*. Errors: `SettingsError` that names the key of the file at fault."""
        self._files = files
        self._stamps = files.stamps()
        self._context = load_context(files)

    def context(self) -> ssl.SSLContext:
        """The context of the files as they are, or as they last were in order."""
        stamps = self._files.stamps()
        if stamps != self._stamps:
            self._stamps = stamps
            try:
                self._context = load_context(self._files)
            except SettingsError as error:
                logger.error("new certificate not used", extra={"reason": str(error)})
            else:
                logger.info("certificate read", extra={"file": str(self._files.certificate)})
        return self._context


def load_context(files: CertificateFiles) -> ssl.SSLContext:
    """Make a server's TLS context. Errors: `SettingsError` that names the key at fault."""
    _check_certificate(files.certificate)
    _read(_PRIVATE_KEY, files.private_key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # RFC 8996 ended what is older.
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # It costs us more than the client.
    context.options |= ssl.OP_NO_RENEGOTIATION
    try:
        context.load_cert_chain(files.certificate, files.private_key, password=_no_passphrase)
    except _Encrypted:
        raise _mistake(
            _PRIVATE_KEY,
            files.private_key,
            "is encrypted; there is nobody to ask for its passphrase: store it without one, "
            "readable by the agent alone",
        ) from None
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            text = f"does not belong to the certificate in {_CERTIFICATE}, {files.certificate}"
        else:
            text = "holds no private key in PEM that can be used"
        raise _mistake(_PRIVATE_KEY, files.private_key, text) from error
    except OSError as error:
        raise _mistake(_PRIVATE_KEY, files.private_key, f"can't be read: {error}") from error
    return context


class _Encrypted(Exception):
    """A passphrase is asked for."""


def _no_passphrase() -> str:
    raise _Encrypted


def _check_certificate(path: Path) -> None:
    text = _read(_CERTIFICATE, path)
    try:
        # Taken for an authority only to see whether it can be read; the context is not used.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(cadata=text)
    except (ssl.SSLError, ValueError) as error:
        raise _mistake(_CERTIFICATE, path, "holds no certificate in PEM") from error


def _read(key: str, path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError as error:
        raise _mistake(key, path, f"can't be read: {error.strerror}") from error


def _mistake(key: str, path: Path, text: str) -> SettingsError:
    return SettingsError([f"{key}: {path}: {text}"])


def _stamp(path: Path) -> _Stamp | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
