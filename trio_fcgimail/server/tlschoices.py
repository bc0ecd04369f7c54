"""What a listener chooses of TLS: versions, suites, curves, and what clients have to show."""

from __future__ import annotations

import ssl
from typing import Final

from trio_fcgimail.config import ClientCertificates, Curve, ListenerSettings, TlsVersion
from trio_fcgimail.server.tls import CertificateError

_VERSIONS: Final = {
    TlsVersion.TLS_1_2: ssl.TLSVersion.TLSv1_2,
    TlsVersion.TLS_1_3: ssl.TLSVersion.TLSv1_3,
}
_CURVES: Final = {  # OpenSSL's short names of RFC 8446 4.2.7
    Curve.P_256: "prime256v1",
    Curve.P_384: "secp384r1",
    Curve.P_521: "secp521r1",
    Curve.X25519: "X25519",
}
_ASKED: Final = {
    ClientCertificates.NONE: ssl.CERT_NONE,
    ClientCertificates.OPTIONAL: ssl.CERT_OPTIONAL,
    ClientCertificates.REQUIRED: ssl.CERT_REQUIRED,
}


def choose(context: ssl.SSLContext, listener: ListenerSettings) -> None:
    """Set the choices of a listener.

    Raises:
        CertificateError: OpenSSL knows none of the suites, Python cannot choose the curve, or the authorities cannot be
            read.
    """
    context.minimum_version = _VERSIONS[listener.tls_minimum]
    if listener.tls_maximum is not None:
        context.maximum_version = _VERSIONS[listener.tls_maximum]
    if listener.ciphers:
        try:
            context.set_ciphers(":".join(listener.ciphers))
        except ssl.SSLError as exc:
            raise CertificateError("OpenSSL has none of the ciphers") from exc
    for curve in listener.curves:
        try:
            context.set_ecdh_curve(_CURVES[curve])
        except ssl.SSLError as exc:  # X25519 in Python 3.11.2, which Debian 12 has, with OpenSSL 3
            raise CertificateError(f"this Python cannot choose the curve {curve.value}") from exc
    if listener.client_certificates is not ClientCertificates.NONE:
        _trust(context, listener)
        context.verify_mode = _ASKED[listener.client_certificates]


def _trust(context: ssl.SSLContext, listener: ListenerSettings) -> None:
    """Take the authorities of clients: those that are named, else the system's."""
    if listener.client_ca is None:
        context.load_default_certs(ssl.Purpose.CLIENT_AUTH)
        return
    try:
        context.load_verify_locations(listener.client_ca)
    except OSError as exc:  # ssl.SSLError is one
        reason = "no certificates in PEM form" if isinstance(exc, ssl.SSLError) else exc.strerror
        raise CertificateError(f"{listener.client_ca}: {reason}") from exc
