"""Which certificate a client gets: the one for the name that it asks for (SNI, RFC 6066 3)."""

from __future__ import annotations

import ssl
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, final

from trio_fcgimail.server.tls import CertificateError

_NO_CHECK_TIME: Final = 0x200000  # OpenSSL's X509_V_FLAG_NO_CHECK_TIME, which the ssl module does not name
_DNS: Final = "DNS"  # what the ssl module calls a dNSName

Facts = Mapping[str, object]  # of a certificate, as ssl.SSLObject.getpeercert tells them


def presented(server: ssl.SSLContext, certificate: Path, *, name: str | None = None, check_time: bool = True) -> Facts:
    """What a client sees that trusts this certificate and no other: a handshake with ourselves, in memory.

    Args:
        server: serves the certificate.
        name: that it has to be for; None for any.
        check_time: whether it has to be valid today.

    Raises:
        ssl.SSLCertVerificationError: a client would not take it.
        ssl.SSLError: no client of today can use it.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(certificate)
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if not check_time:
        context.verify_flags |= ssl.VerifyFlags(_NO_CHECK_TIME)
    context.check_hostname = name is not None
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(to_client, to_server, server_hostname=name)
    ours = server.wrap_bio(to_server, to_client, server_side=True)
    for side in (client, ours, client):
        with suppress(ssl.SSLWantReadError):
            side.do_handshake()
    facts = client.getpeercert()
    assert facts is not None, "a certificate was asked for and verified"
    return facts


def names_of(server: ssl.SSLContext, certificate: Path) -> tuple[str, ...]:
    """The names that a certificate can be chosen by; whether it is valid today is not asked.

    Args:
        server: serves it, and asks nothing of clients.

    Raises:
        CertificateError: it has none, or no client can use it.
    """
    try:
        names = dns_names(presented(server, certificate, check_time=False))
    except ssl.SSLError as exc:
        raise CertificateError(f"{certificate}: clients cannot use it ({exc.reason})") from exc
    if not names:
        raise CertificateError(f"{certificate}: no DNS names in it that it could be chosen by")
    return names


def dns_names(facts: Facts) -> tuple[str, ...]:
    """The DNS names of a certificate, in lower case (RFC 9525 6.3); what stands in its subject is none of them."""
    return tuple(dict.fromkeys(_dns_names(facts.get("subjectAltName"))))


def _dns_names(alternatives: object) -> Iterator[str]:
    for alternative in alternatives if isinstance(alternatives, tuple) else ():
        match alternative:
            case (kind, str(value)) if kind == _DNS:
                yield value.lower()
            case _:
                pass


@final
class ByName:
    """Contexts by the names of their certificates; the first who has a name keeps it.

    Args:
        default: for every name that nobody has.
    """

    def __init__(self, default: ssl.SSLContext) -> None:
        self._default = default
        self._contexts: dict[str, ssl.SSLContext] = {}

    def add(self, names: Iterable[str], context: ssl.SSLContext) -> None:
        """Have a context serve names, of which ``*.`` stands for one label."""
        for name in names:
            self._contexts.setdefault(name, context)

    def find(self, name: str | None) -> ssl.SSLContext:
        """The context for a name that a client asks for, None when it asks for none.

        A certificate with the very name goes before one with a wildcard (RFC 9525 6.3).
        """
        if name is None:
            return self._default
        name = name.lower().removesuffix(".")
        wildcard = "*." + name.partition(".")[2]
        return self._contexts.get(name) or self._contexts.get(wildcard) or self._default

    def serve(self) -> None:
        """Have the default's handshakes go on with the context that the client asks for."""
        self._default.sni_callback = self._choose

    def _choose(self, connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        connection.context = self.find(name)


def be_quiet_about_names() -> None:
    """Have no traceback on standard error when a client asks for a name that is not ASCII; for a process of ours alone.

    The ssl module lets the handshake fail, which is a line of the log, and has nobody to raise its own error to.
    """
    others = sys.unraisablehook

    def hook(unraisable: sys.UnraisableHookArgs) -> None:
        error = unraisable.exc_value
        if not (isinstance(error, UnicodeDecodeError) and error.object == unraisable.object):
            others(unraisable)

    sys.unraisablehook = hook
