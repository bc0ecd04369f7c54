"""What a certificate says to those who look at it: a handshake with ourselves, in memory."""

from __future__ import annotations

import ssl
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from trio_fcgimail.cli.finding import Finding, State
from trio_fcgimail.server.tls import CertificateError, server_context

_SOON: Final = timedelta(days=14)  # ours: renewed certificates come earlier
_OUTSIDE_ITS_TIME: Final = frozenset({9, 10})  # OpenSSL's X509_V_ERR_CERT_NOT_YET_VALID and ..._HAS_EXPIRED
_OTHER_NAME: Final = 62  # X509_V_ERR_HOSTNAME_MISMATCH


def check_certificate(key: str, certificate: Path, private_key: Path | None, hostname: str, now: datetime) -> Finding:
    """Say whether a certificate can be used, for how long, and whether it is for our name.

    Whom its chain leads to is not asked: that is the clients' choice, and most of those who bring mail do not look.

    Args:
        key: of the setting.
        now: with a time zone.
    """
    try:
        server = server_context(certificate, private_key)
    except CertificateError as exc:
        return Finding(key, State.BAD, f"{exc}; correct certificate and private_key, and who may read them")
    try:
        end = _look(server, certificate, None)
    except ssl.SSLCertVerificationError as exc:
        if exc.verify_code not in _OUTSIDE_ITS_TIME:
            return Finding(key, State.UNKNOWN, f"{certificate}: {exc.verify_message}")
        return Finding(key, State.BAD, f"{certificate}: {exc.verify_message}; renew it, or set the clock")
    except ssl.SSLError as exc:
        return Finding(key, State.BAD, f"{certificate}: clients cannot use it ({exc.reason}); get another kind")
    until = f"{certificate}: valid until {end:%Y-%m-%d}"
    try:
        _look(server, certificate, hostname)
    except ssl.SSLCertVerificationError as exc:
        if exc.verify_code == _OTHER_NAME:
            detail = f"{until}, but not for {hostname}; who compares names will not go on"
            return Finding(key, State.UNKNOWN, detail)
    if end - now < _SOON:
        return Finding(key, State.UNKNOWN, f"{until}; renew it soon, and start the server anew")
    return Finding(key, State.GOOD, until)


def _look(server: ssl.SSLContext, certificate: Path, hostname: str | None) -> datetime:
    """Do a handshake as a client that trusts this certificate alone.

    Args:
        hostname: that it has to be for; None for any.

    Returns:
        When it ends to be valid.

    Raises:
        ssl.SSLCertVerificationError: a client would not take it.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(certificate)
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.check_hostname = hostname is not None
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(to_client, to_server, server_hostname=hostname)
    ours = server.wrap_bio(to_server, to_client, server_side=True)
    for side in (client, ours, client):
        with suppress(ssl.SSLWantReadError):
            side.do_handshake()
    facts = client.getpeercert()
    assert facts is not None, "a certificate was asked for and verified"
    return datetime.fromtimestamp(ssl.cert_time_to_seconds(str(facts["notAfter"])), UTC)
