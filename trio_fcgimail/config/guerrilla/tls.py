"""The table `tls` of a server: Go's names made into OpenSSL's, or warned about."""

from typing import Final

from trio_fcgimail.config.errors import shown
from trio_fcgimail.config.guerrilla.fields import Fields
from trio_fcgimail.config.listening import ClientCertificates, Curve, TlsVersion
from trio_fcgimail.config.warnings import Concern

__all__ = ["KEYS", "tls_settings"]

KEYS: Final = (
    "start_tls_on",
    "tls_always_on",
    "private_key_file",
    "public_key_file",
    "protocols",
    "ciphers",
    "curves",
    "client_auth_type",
    "root_cas_file",
    "prefer_server_cipher_suites",
)

_VERSIONS: Final = {"tls1.2": TlsVersion.TLS_1_2, "tls1.3": TlsVersion.TLS_1_3}
_DEAD: Final = ("ssl3.0", "tls1.0", "tls1.1")  # RFC 7568, RFC 8996
_CURVES: Final = {"P256": Curve.P_256, "P384": Curve.P_384, "P521": Curve.P_521, "X25519": Curve.X25519}

_EXCHANGES: Final = {"RSA": "", "ECDHE_RSA": "ECDHE-RSA-", "ECDHE_ECDSA": "ECDHE-ECDSA-"}
_SUITES: Final = {
    "AES_128_CBC_SHA": "AES128-SHA",
    "AES_256_CBC_SHA": "AES256-SHA",
    "AES_128_CBC_SHA256": "AES128-SHA256",
    "AES_128_GCM_SHA256": "AES128-GCM-SHA256",
    "AES_256_GCM_SHA384": "AES256-GCM-SHA384",
}
_CHACHA: Final = ("CHACHA20_POLY1305", "CHACHA20_POLY1305_SHA256")
# crypto/tls of Go, "cipher suites", in the names that openssl-ciphers(1) has for them.
_CIPHERS: Final = {
    **{
        f"TLS_{go}_WITH_{suite}": ours + openssl
        for go, ours in _EXCHANGES.items()
        for suite, openssl in _SUITES.items()
    },
    **{
        f"TLS_ECDHE_{key}_WITH_{name}": f"ECDHE-{key}-CHACHA20-POLY1305" for key in ("RSA", "ECDSA") for name in _CHACHA
    },
}
_OF_TLS_1_3: Final = ("TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256")

_VERIFIED: Final = {
    "NoClientCert": ClientCertificates.NONE,
    "VerifyClientCertIfGiven": ClientCertificates.OPTIONAL,
    "RequireAndVerifyClientCert": ClientCertificates.REQUIRED,
}
_UNVERIFIED: Final = ("RequestClientCert", "RequireAnyClientCert")


def tls_settings(fields: Fields) -> dict[str, tuple[object, str]]:
    """Give the keys of a listener, each with the key of theirs that it comes from; none when TLS is off."""
    implicit, starttls = fields.flag("tls_always_on"), fields.flag("start_tls_on")
    if not (implicit or starttls):
        _tell_unused(fields)
        return {}
    if implicit and starttls:
        done = "the connection is encrypted from its start by tls_always_on, so nothing is left for it to do"
        fields.warn("start_tls_on", shown(True), done, Concern.DIFFERENT)
    taken: dict[str, tuple[object, str]] = {
        "tls": ("implicit", "tls_always_on") if implicit else ("starttls", "start_tls_on")
    }
    for ours, theirs in (("certificate", "public_key_file"), ("private_key", "private_key_file")):
        if path := fields.string(theirs):
            taken[ours] = (path, theirs)
        else:
            fields.refuse(theirs, "the path of a PEM file, as TLS is on")
    _versions(fields, taken)
    if ciphers := _ciphers(fields):
        taken["ciphers"] = (ciphers, "ciphers")
    if curves := _curves(fields):
        taken["curves"] = (curves, "curves")
    _client_certificates(fields, taken)
    if fields.get("prefer_server_cipher_suites") is not None and not fields.flag("prefer_server_cipher_suites"):
        done = "the order of the server is the one that counts"
        fields.warn("prefer_server_cipher_suites", shown(False), done, Concern.DIFFERENT)
    return taken


def _tell_unused(fields: Fields) -> None:
    for name in fields.names():
        if name not in ("start_tls_on", "tls_always_on"):
            fields.warn(name, shown(fields.get(name)), "TLS is off here, so it has no effect", Concern.UNUSED)


def _versions(fields: Fields, taken: dict[str, tuple[object, str]]) -> None:
    """Read [minimum, maximum]."""
    given = fields.strings("protocols")
    for name in given[2:]:
        fields.warn("protocols", shown(name), "only the first two count, minimum and maximum", Concern.UNUSABLE)
    read: list[TlsVersion | None] = []
    for name in given[:2]:
        if name in _DEAD:
            done = 'dead (RFC 8996), so "tls1.2" counts in its place'
            fields.warn("protocols", shown(name), done, Concern.WEAK_TLS)
            read.append(TlsVersion.TLS_1_2)
        else:
            if name not in _VERSIONS:
                fields.warn("protocols", shown(name), "no version that we know, left out", Concern.WEAK_TLS)
            read.append(_VERSIONS.get(name))
    lowest, highest = (*read, None, None)[:2]
    if lowest is TlsVersion.TLS_1_3 and highest is TlsVersion.TLS_1_2:
        fields.refuse("protocols", "the lower version first")
        return
    if lowest is not None:
        taken["tls_minimum"] = (lowest.value, "protocols")
    if highest is not None:
        taken["tls_maximum"] = (highest.value, "protocols")


def _ciphers(fields: Fields) -> list[str]:
    taken: list[str] = []
    for name in fields.strings("ciphers"):
        ours = _CIPHERS.get(name)
        if ours is not None:
            taken.append(ours)
        elif name in _OF_TLS_1_3:
            fields.warn("ciphers", shown(name), "TLS 1.3 always has it; only those of 1.2 are chosen", Concern.UNUSED)
        else:
            done = "too weak, or no cipher suite that we know: left out"
            fields.warn("ciphers", shown(name), done, Concern.WEAK_TLS)
    return list(dict.fromkeys(taken))


def _curves(fields: Fields) -> list[str]:
    """Give at most one curve: more of them cannot be handed to OpenSSL, and one alone would be another wish."""
    given = fields.strings("curves")
    for name in given:
        if name not in _CURVES:
            fields.warn("curves", shown(name), "no curve that we know, left out", Concern.WEAK_TLS)
    known = list(dict.fromkeys(_CURVES[name].value for name in given if name in _CURVES))
    if len(known) > 1:
        done = "only a single one can be chosen, so OpenSSL chooses: X25519 and the curves of NIST"
        fields.warn("curves", shown(given), done, Concern.DIFFERENT)
        return []
    return known


def _client_certificates(fields: Fields, taken: dict[str, tuple[object, str]]) -> None:
    """Unless the file says so, clients are asked for nothing: nobody looks at what they would show."""
    name, roots = fields.string("client_auth_type"), fields.string("root_cas_file")
    asked = _VERIFIED.get(name, ClientCertificates.NONE)
    if not name and roots:
        asked = ClientCertificates.OPTIONAL
    elif name in _UNVERIFIED:
        done = "a certificate that nobody verifies says nothing, so none is asked for"
        fields.warn("client_auth_type", shown(name), done, Concern.WEAK_TLS)
    elif name and name not in _VERIFIED:
        fields.warn("client_auth_type", shown(name), "not known, so none is asked for", Concern.WEAK_TLS)
    if asked is not ClientCertificates.NONE:
        taken["client_certificates"] = (asked.value, "client_auth_type" if name else "root_cas_file")
        if roots:
            taken["client_ca"] = (roots, "root_cas_file")
    elif roots:
        done = "clients are asked for no certificate, so it has no effect"
        fields.warn("root_cas_file", shown(roots), done, Concern.UNUSED)
