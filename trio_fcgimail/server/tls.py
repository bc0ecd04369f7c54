"""TLS as a server: what a listener needs for it, and the handshake. Everything else is Trio's and OpenSSL's."""

from __future__ import annotations

import ssl
from contextlib import suppress
from pathlib import Path
from typing import Final, final

import trio

from trio_fcgimail.mail import TlsFacts
from trio_fcgimail.server.tlsclient import client_certificate

# RFC 8996 has put an end to TLS 1.0 and 1.1; RFC 8314 4.1 asks for 1.2 at least.
_MINIMUM: Final = ssl.TLSVersion.TLSv1_2
# Suites of 1.2 (openssl-ciphers(1)): an ephemeral key (RFC 9325 4.1), and no hash of old. What Debian has for a default
# includes others. CBC with SHA-2 stays: for servers that know nothing better (Windows 2012) it is that or the clear.
_CIPHERS: Final = "@SECLEVEL=2:ECDHE+AESGCM:ECDHE+CHACHA20:ECDHE+AES:!SHA1:!AESCCM"
# How the blocks of a PEM file are labelled (RFC 7468 5 and 10, RFC 5958 and the older kinds of OpenSSL).
_CERTIFICATE_BLOCK: Final = b"CERTIFICATE"
_KEY_BLOCK: Final = b"PRIVATE KEY"
# Alerts (RFC 8446 6.2) by OpenSSL's reasons: protocol_version and handshake_failure.
_ALERTS: Final = {
    "UNSUPPORTED_PROTOCOL": 70,
    "NO_SHARED_CIPHER": 40,
    "NO_SHARED_GROUPS": 40,
    "NO_SUITABLE_KEY_SHARE": 40,
    "NO_SUITABLE_SIGNATURE_ALGORITHM": 40,
}
_FATAL: Final = b"\x15\x03\x03\x00\x02\x02"  # the head of a record with a fatal alert (RFC 8446 5.1, 6)
_ALERT_SECONDS: Final = 1.0  # ours; seven octets have room in any buffer
_NO_RENEGOTIATION: Final = ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION  # each a way to make us work for nothing


@final
class CertificateError(Exception):
    """A certificate or its key cannot be used; the text is one line for the user."""


class HandshakeError(Exception):
    """The client did not get to TLS; the text is for the log."""


@final
class HandshakeTimeoutError(HandshakeError):
    """It took too long."""


def server_context(certificate: Path, private_key: Path | None) -> ssl.SSLContext:
    """Read a certificate chain and its key, both PEM.

    Raises:
        CertificateError: that cannot be done; it names the file.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _MINIMUM
    context.options |= _NO_RENEGOTIATION
    context.set_ciphers(_CIPHERS)
    key = private_key or certificate
    for path, block in ((certificate, _CERTIFICATE_BLOCK), (key, _KEY_BLOCK)):
        _check_holds(path, block)  # OpenSSL does not say which of two files it could not read
    try:
        context.load_cert_chain(certificate, private_key, password=_no_password)
    except _EncryptedKeyError as exc:
        raise CertificateError(f"{key}: the key is encrypted; store it without a password") from exc
    except ssl.SSLError as exc:
        raise CertificateError(_explain(exc, certificate, key)) from exc
    return context


def _check_holds(path: Path, block: bytes) -> None:
    try:
        text = path.read_bytes()
    except OSError as exc:
        raise CertificateError(f"{path}: {exc.strerror}") from exc
    if block not in text:
        raise CertificateError(f"{path}: no {block.decode().lower()} in PEM form")


class _EncryptedKeyError(Exception):
    """OpenSSL asked for a password."""


def _no_password() -> str:
    raise _EncryptedKeyError


def _explain(exc: ssl.SSLError, certificate: Path, private_key: Path) -> str:
    match exc.reason:
        case "KEY_VALUES_MISMATCH":
            return f"{private_key}: the key is not that of {certificate}"
        case _:
            return f"{certificate}, {private_key}: OpenSSL cannot read them ({exc.reason or exc.strerror})"


async def start_tls(
    stream: trio.abc.Stream, context: ssl.SSLContext, *, seconds: float, scope: trio.CancelScope
) -> tuple[trio.SSLStream[trio.abc.Stream], TlsFacts]:
    """Do the handshake, as the server.

    Clients that close without a close_notify are taken as they are: an end within a mail delivers nothing anyway.

    Args:
        stream: in the clear; it belongs to the result from here on.
        seconds: for all of it.
        scope: that it is done in; cancelled when it has to make room for others.

    Raises:
        HandshakeError: it failed; nothing can be said over ``stream`` any more.
    """
    encrypted = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
    scope.deadline = trio.current_time() + seconds
    try:
        with scope:
            await encrypted.do_handshake()
    except trio.BrokenResourceError as exc:
        await _alert(stream, exc.__cause__)
        raise HandshakeError(f"TLS handshake failed: {_reason(exc.__cause__)}") from exc
    if scope.cancelled_caught:
        if trio.current_time() < scope.deadline:
            raise HandshakeTimeoutError("TLS handshake cut short, as too many others began")
        raise HandshakeTimeoutError(f"no TLS handshake within {seconds:g} s")
    client = client_certificate(encrypted.getpeercert(), encrypted.getpeercert(binary_form=True))
    return encrypted, TlsFacts(str(encrypted.version()), str(encrypted.cipher()[0]), client)


async def _alert(stream: trio.abc.SendStream, cause: BaseException | None) -> None:
    """Tell why there is nothing in common, as far as it shows before anything is encrypted; Trio sends no alerts."""
    description = _ALERTS.get(cause.reason or "") if isinstance(cause, ssl.SSLError) else None
    if description is not None:
        with trio.move_on_after(_ALERT_SECONDS), suppress(trio.BrokenResourceError):
            await stream.send_all(_FATAL + bytes((description,)))


def _reason(cause: BaseException | None) -> str:
    match cause:
        case ssl.SSLEOFError() | ssl.SSLZeroReturnError():
            return "the client closed"
        case ssl.SSLError(reason=str(reason)):
            return reason.replace("_", " ").lower()
        case _:
            return "the client closed"
