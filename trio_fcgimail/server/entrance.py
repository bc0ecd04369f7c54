"""A listener, ready to take clients: its settings as the core takes them, and its certificate."""

from __future__ import annotations

import ssl
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, final

from trio_fcgimail import smtp
from trio_fcgimail.config import ListenerSettings, Protocol, Settings, TlsMode
from trio_fcgimail.server.listeners import ListenError, cap_name, keyed
from trio_fcgimail.server.tls import CertificateError, server_context
from trio_fcgimail.server.tlschoices import choose
from trio_fcgimail.server.tlsnames import ByName, names_of

_DIALECTS: Final = {Protocol.SMTP: smtp.SMTP, Protocol.LMTP: smtp.LMTP}
_TLS: Final = {
    TlsMode.NONE: smtp.Tls.NONE,
    TlsMode.STARTTLS: smtp.Tls.AVAILABLE,
    TlsMode.IMPLICIT: smtp.Tls.ACTIVE,
}


@final
@dataclass(frozen=True, slots=True)
class Entrance:
    """What all sessions of one listener share.

    Args:
        context: None for a listener without TLS.
        cap_name: what its connections are counted by; "" when it has no limit of its own.

    Attributes:
        exempt_options: for clients whom the limits leave alone.
    """

    settings: ListenerSettings
    options: smtp.ServerOptions
    context: ssl.SSLContext | None = None
    cap_name: str = ""
    exempt_options: smtp.ServerOptions = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "exempt_options", replace(self.options, max_messages=None))


def open_entrances(settings: Settings) -> list[Entrance]:
    """All listeners, in their order. Raises ListenError."""
    return [
        replace(open_entrance(settings, listener), cap_name=cap_name(key, listener))
        for key, listener in keyed(settings.listeners)
    ]


def open_entrance(settings: Settings, listener: ListenerSettings) -> Entrance:
    """Read what a listener needs from the disk.

    Raises:
        ListenError: its certificate cannot be used.
    """
    options = server_options(settings, listener)
    if listener.certificate is None:
        return Entrance(listener, options)
    try:
        context = _context(listener, listener.certificate)
    except CertificateError as exc:
        raise ListenError(f"cannot do TLS on {listener.address}: {exc}") from exc
    return Entrance(listener, options, context)


def _context(listener: ListenerSettings, certificate: Path) -> ssl.SSLContext:
    """The certificate of a listener, and behind it those that are chosen by name. Raises CertificateError."""
    context = server_context(certificate, listener.private_key)
    by_name = ByName(context)
    if listener.certificates:
        with suppress(CertificateError):  # it serves nevertheless whoever asks for no other
            by_name.add(names_of(context, certificate), context)
    for pair in listener.certificates:
        other = server_context(pair.certificate, pair.private_key)
        by_name.add(names_of(other, pair.certificate), other)
        choose(other, listener)
    choose(context, listener)
    if listener.certificates:
        by_name.serve()
    return context


def server_options(settings: Settings, listener: ListenerSettings) -> smtp.ServerOptions:
    """The settings of a listener as the core takes them."""
    limits = settings.limits
    keywords = listener.extensions
    return smtp.ServerOptions(
        hostname=listener.hostname or settings.hostname,
        dialect=_DIALECTS[listener.protocol],
        extensions=frozenset(smtp.Extension) if keywords == "all" else frozenset(keywords),
        tls=_TLS[listener.tls],
        auth_mechanisms=frozenset() if settings.scripts.auth is None else frozenset(smtp.Mechanism),
        auth_channel=smtp.AuthChannel.ANY if listener.auth_without_tls else smtp.AuthChannel.TLS_ONLY,
        paths=smtp.Paths.LENIENT if listener.lenient_paths else smtp.Paths.STRICT,
        bare_newline=listener.bare_newline,
        max_message_octets=listener.message_octets or limits.message_octets,
        max_recipients=limits.recipients,
        max_messages=limits.messages_per_connection,
        max_bad_commands=limits.bad_commands,
        max_refused_recipients=limits.refused_recipients,
    )
