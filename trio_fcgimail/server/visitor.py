"""Who is at the other end: as the socket says, as a proxy in front says by PROXY, and as one says by XCLIENT."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final, TypeVar, assert_never, final

import structlog.typing
import trio

from trio_fcgimail import smtp
from trio_fcgimail.config import LimitSettings, ListenerSettings, PeerList, parse_ip, unmapped
from trio_fcgimail.mail import Peer, Session, TlsFacts
from trio_fcgimail.server.entrance import Entrance
from trio_fcgimail.server.prelude import (
    ClientTls,
    Header,
    Origin,
    PreludeError,
    Verification,
    octets_missing,
    parse_header,
)
from trio_fcgimail.server.tlsclient import client_of_proxy

_TLS_WORD: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")  # what OpenSSL calls its versions and ciphers
_UNTOLD: Final = "unknown"

_PERMANENT: Final = 500
_CLOSING_FOR_NOW, _CLOSING_FOR_EVER = 421, 521

_T = TypeVar("_T", str, int, smtp.GreetingWord | None, str | None)


@final
class PreludeTimeoutError(PreludeError):
    """No whole header came in time."""


@final
@dataclass(frozen=True, slots=True)
class Visitor:
    """A client.

    Args:
        peer: who it is; without an address over a unix socket, be it ours or one of the proxy.
        via: the proxy that told us so by PROXY; None when the client is connected to us.
        tls: how it speaks TLS to that proxy; None when it does not, or nobody said so.
    """

    peer: Peer
    via: Peer | None = None
    tls: TlsFacts | None = None

    def is_on(self, peers: PeerList) -> bool:
        """Whether it is on a list. A unix socket at the proxy is none of ours."""
        return peers.holds(self.peer.ip) if self.peer.ip or self.via is None else False


async def introduce(
    stream: trio.abc.ReceiveStream, peer: Peer, listener: ListenerSettings, scope: trio.CancelScope
) -> Visitor:
    """Learn who a new client is: from a proxy that has to say so, by exactly one header, or it is the peer.

    Args:
        stream: in the clear; nothing behind the header is read.
        scope: with the deadline for the header.

    Raises:
        PreludeError: the header is missing, or must not be believed.
        PreludeTimeoutError: it did not come in time, or ``scope`` was cancelled.
    """
    if not listener.proxy_protocol_from.holds(peer.ip):
        return Visitor(peer)
    octets = b""
    with scope:
        while missing := octets_missing(octets):
            try:
                received = await stream.receive_some(missing)
            except trio.BrokenResourceError as exc:
                raise PreludeError("the proxy reset the connection") from exc
            if not received:
                raise PreludeError("the proxy closed before its header was whole")
            octets += received
    if scope.cancelled_caught:
        raise PreludeTimeoutError("no PROXY header in time")
    return _visitor_of(parse_header(octets), peer)


def _visitor_of(header: Header, peer: Peer) -> Visitor:
    match header.origin:
        case Origin.PROXY:
            return Visitor(peer)
        case Origin.LOCAL_CLIENT:
            return Visitor(Peer("", 0), via=peer, tls=_tls_facts(header.tls))
        case Origin.CLIENT:
            source = header.source
            assert source is not None, "a client has addresses"
            return Visitor(Peer(source.ip, source.port), via=peer, tls=_tls_facts(header.tls))
        case _:
            assert_never(header.origin)


def _tls_facts(tls: ClientTls | None) -> TlsFacts | None:
    """TLS as the proxy tells of it; its words go into headers, so they have to be what they say they are."""
    if tls is None:
        return None
    version, cipher = (word if _TLS_WORD.fullmatch(word) else _UNTOLD for word in (tls.version, tls.cipher))
    is_known = tls.certificate is Verification.PASSED
    return TlsFacts(version, cipher, client_of_proxy(tls.common_name) if is_known else None)


def options_for(visitor: Visitor, entrance: Entrance, limits: LimitSettings) -> smtp.ServerOptions:
    """What the core is to offer to a visitor, who may be trusted more than others.

    A proxy that may use XCLIENT speaks for others, so its connection is never exempt from a limit of its own.
    """
    options = entrance.options
    if visitor.is_on(entrance.settings.xclient_from):
        options = replace(options, xclient=smtp.XclientUse.ALLOWED)
    elif visitor.is_on(limits.exempt_from):
        options = entrance.exempt_options
    if visitor.tls is not None and options.tls is not smtp.Tls.ACTIVE:
        options = replace(options, tls=smtp.Tls.ACTIVE)  # it ended at the proxy: none is to be begun within it
    return options


@final
@dataclass(frozen=True, slots=True)
class Claim:
    """The greeting of the client behind a proxy, as told by XCLIENT: it stands whatever the proxy calls itself.

    Args:
        word: None as long as it was not told; ``helo`` likewise.
    """

    word: smtp.GreetingWord | None = None
    helo: str | None = None

    def adopt(self, attributes: smtp.XclientAttributes) -> Claim:
        """What is claimed once more was said; what was not said stays."""
        return Claim(
            _told(attributes.protocol, self.word, None),
            _told(attributes.helo, self.helo, None),
        )

    def apply(self, facts: Session, event: smtp.Hello) -> Session:
        """The facts after a greeting by the proxy."""
        helo = event.domain if self.helo is None else self.helo
        return replace(facts, greeting=self.word or event.word, helo=helo)


def introduced(facts: Session, attributes: smtp.XclientAttributes) -> Session:
    """The facts of the client that XCLIENT tells of, who has not greeted yet.

    An address that is unavailable is none. A new address without a port has none; a login lasts to the next XCLIENT.
    """
    before = facts.peer
    ip = _told(attributes.address, before.ip, "")
    port = _told(attributes.port, before.port if attributes.address is None else 0, 0)
    login = _told(attributes.login, None, None)
    tls = None if facts.tls is None else replace(facts.tls, client=None)  # who showed a certificate speaks for another
    peer = Peer(_unmapped(ip), port)
    return Session(peer, dialect=facts.dialect, tls=tls, auth_user=login, hostname=facts.hostname)


def _told(value: _T | smtp.Unavailable | None, known: _T, unavailable: _T) -> _T:
    """What holds after one attribute."""
    match value:
        case None:
            return known
        case smtp.Unavailable():
            return unavailable
        case told:
            return told


def _unmapped(ip: str) -> str:
    """IPv4 mapped into IPv6 as IPv4, as everywhere else."""
    if not ip:
        return ip
    address = parse_ip(ip)
    shown = unmapped(address)
    return ip if shown is address else str(shown)


def closing(reply: smtp.Reply) -> smtp.Reply:
    """A refusal of the client that XCLIENT tells of; it closes, so that nothing of it can pass for the proxy's own."""
    return replace(reply, code=_CLOSING_FOR_EVER if reply.code >= _PERMANENT else _CLOSING_FOR_NOW)


def log_introduction(log: structlog.typing.FilteringBoundLogger, attributes: smtp.XclientAttributes) -> None:
    """Tell what XCLIENT said, all of it."""
    facts = {
        "name": attributes.name,
        "address": attributes.address,
        "port": attributes.port,
        "proto": attributes.protocol,
        "helo": attributes.helo,
        "login": attributes.login,
        "destination_address": attributes.destination_address,
        "destination_port": attributes.destination_port,
    }
    log.info("client introduced", **{key: _shown(value) for key, value in facts.items() if value is not None})


def _shown(value: str | int | smtp.GreetingWord | smtp.Unavailable) -> str | int:
    return value if isinstance(value, str | int) else value.value
