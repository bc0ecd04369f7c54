"""What a certificate says to those who look at it."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from trio_fcgimail.cli.finding import Finding, State
from trio_fcgimail.config import ListenerSettings, Settings
from trio_fcgimail.server import ListenError
from trio_fcgimail.server.entrance import open_entrance
from trio_fcgimail.server.tls import CertificateError, server_context
from trio_fcgimail.server.tlsnames import dns_names, presented

_SOON: Final = timedelta(days=14)  # ours: renewed certificates come earlier
_OUTSIDE_ITS_TIME: Final = frozenset({9, 10})  # OpenSSL's X509_V_ERR_CERT_NOT_YET_VALID and ..._HAS_EXPIRED
_SHOWN_NAMES: Final = 3
_OTHER_NAME: Final = 62  # X509_V_ERR_HOSTNAME_MISMATCH


def check_tls(prefix: str, listener: ListenerSettings, settings: Settings, now: datetime) -> list[Finding]:
    """Say it of all certificates of a listener; when they are good, what else is in the way of TLS.

    Args:
        prefix: the key of the listener.
    """
    if listener.certificate is None:
        return []
    files = (listener.certificate, listener.private_key)
    findings = [check_certificate(f"{prefix}.certificate", *files, listener.hostname or settings.hostname, now)]
    for place, pair in enumerate(listener.certificates):
        key = f"{prefix}.certificates[{place}]"
        findings.append(check_certificate(key, pair.certificate, pair.private_key, None, now))
    if all(finding.state is not State.BAD for finding in findings):
        try:
            open_entrance(settings, listener)
        except ListenError as exc:
            findings.append(Finding(f"{prefix}.tls", State.BAD, str(exc)))
    return findings


def check_certificate(
    key: str, certificate: Path, private_key: Path | None, hostname: str | None, now: datetime
) -> Finding:
    """Say whether a certificate can be used, for how long, and whether it is for our name.

    Whom its chain leads to is not asked: that is the clients' choice, and most of those who bring mail do not look.

    Args:
        key: of the setting.
        hostname: our name; None for a certificate that is chosen by its own.
        now: with a time zone.
    """
    try:
        server = server_context(certificate, private_key)
    except CertificateError as exc:
        return Finding(key, State.BAD, f"{exc}; correct certificate and private_key, and who may read them")
    try:
        facts = presented(server, certificate)
    except ssl.SSLCertVerificationError as exc:
        if exc.verify_code not in _OUTSIDE_ITS_TIME:
            return Finding(key, State.UNKNOWN, f"{certificate}: {exc.verify_message}")
        return Finding(key, State.BAD, f"{certificate}: {exc.verify_message}; renew it, or set the clock")
    except ssl.SSLError as exc:
        return Finding(key, State.BAD, f"{certificate}: clients cannot use it ({exc.reason}); get another kind")
    end = datetime.fromtimestamp(ssl.cert_time_to_seconds(str(facts["notAfter"])), UTC)
    until = f"{certificate}: valid until {end:%Y-%m-%d}"
    if hostname is None:
        names = dns_names(facts)
        if not names:
            return Finding(key, State.BAD, f"{certificate}: no DNS names in it that it could be chosen by")
        until += f", for {', '.join(names[:_SHOWN_NAMES])}{', ...' if len(names) > _SHOWN_NAMES else ''}"
    try:
        presented(server, certificate, name=hostname)
    except ssl.SSLCertVerificationError as exc:
        if exc.verify_code == _OTHER_NAME:
            detail = f"{until}, but not for {hostname}; who compares names will not go on"
            return Finding(key, State.UNKNOWN, detail)
    if end - now < _SOON:
        return Finding(key, State.UNKNOWN, f"{until}; renew it soon")
    return Finding(key, State.GOOD, until)
