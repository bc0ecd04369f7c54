"""At the door: who a new connection is, and whether there is room for it. What goes on inside is the session's."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from typing import Final, final

import trio

from trio_fcgimail.config import TlsMode
from trio_fcgimail.mail import Peer
from trio_fcgimail.server.effort import CONNECTION_SECONDS
from trio_fcgimail.server.entrance import Entrance
from trio_fcgimail.server.gateway import Gateway
from trio_fcgimail.server.ledger import Place
from trio_fcgimail.server.limits import Limit
from trio_fcgimail.server.listeners import peer_of
from trio_fcgimail.server.outlet import GOODBYE_SECONDS, ClientGoneError, Outlet, close_politely
from trio_fcgimail.server.prelude import PreludeError
from trio_fcgimail.server.rates import Network
from trio_fcgimail.server.session import Session
from trio_fcgimail.server.visitor import PreludeTimeoutError, Visitor, introduce
from trio_fcgimail.server.wire import StreamWire
from trio_fcgimail.smtp import Reply, catalogue

# Ours: at once; each holds a socket for up to GOODBYE_SECONDS, and before that for a header of PROXY and for TLS.
MAX_POLITE_REFUSALS: Final = 100
# Ours: of addresses that have us work for nothing; further ones are turned away.
MAX_WAITING: Final = 100


@final
class Doorman:
    """Lets clients in, or turns them away.

    Args:
        why_closed: why nobody is let in at present, if so.

    Attributes:
        turned_away: the sessions of those who are just being told so.
    """

    def __init__(self, gateway: Gateway, why_closed: Callable[[], Reply | None]) -> None:
        self._gateway = gateway
        self._log = gateway.log
        self._limits = gateway.settings.limits
        self._why_closed = why_closed
        self._polite_refusals = 0
        self._waiting = 0
        self.turned_away: set[Session] = set()
        self._headers_awaited: set[trio.CancelScope] = set()

    def stop_waiting(self) -> None:
        """Wait for no header of PROXY any longer."""
        for scope in self._headers_awaited:
            scope.cancel()

    async def let_in(self, stream: trio.SocketStream, entrance: Entrance, place: Place) -> Session | None:
        """A session that is to be run, or None: the client was turned away, and the stream is closed.

        Args:
            place: nothing of it is taken up when the client was turned away.
        """
        try:
            peer = peer_of(stream)
        except OSError:
            await trio.aclose_forcefully(stream)
            return None
        try:
            return await self._judge(stream, peer, entrance, place)
        except PreludeError as exc:
            place.leave()
            await self._refuse_proxy(stream, peer, entrance, exc)
            return None
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise

    async def _judge(self, stream: trio.SocketStream, peer: Peer, entrance: Entrance, place: Place) -> Session | None:
        visitor: Visitor | None = None
        refusal = self._closed(entrance) or await place.enter(entrance.cap_name)
        if refusal is None:
            visitor = await self._introduce(stream, peer, entrance)
            is_trusted = visitor.is_on(entrance.settings.xclient_from)  # and speaks for others, by whom we count
            ip = "" if is_trusted else visitor.peer.ip
            if not await self._has_patience(place.metered_as(ip)):
                place.leave()
                await self._send_away(stream, visitor.peer, entrance, catalogue.CONNECTING_TOO_OFTEN)
                return None
            refusal = await place.stand_for(ip)
        refusal = refusal or self._closed(entrance)  # which may have changed meanwhile
        if visitor is not None and refusal is None:
            return Session(stream, visitor, entrance, self._gateway, place)
        place.leave()
        assert refusal is not None, "whoever is not let in is told why"
        await self._refuse(stream, peer, visitor, entrance, refusal, place)
        return None

    async def _introduce(self, stream: trio.SocketStream, peer: Peer, entrance: Entrance) -> Visitor:
        scope = trio.CancelScope(deadline=trio.current_time() + self._limits.proxy_header_seconds)
        self._headers_awaited.add(scope)
        try:
            return await introduce(stream, peer, entrance.settings, scope)
        finally:
            self._headers_awaited.discard(scope)

    def _closed(self, entrance: Entrance) -> Reply | None:
        """Why nobody is served, whoever it is."""
        return self._why_closed() if entrance.settings.accepts_mail else catalogue.HOST_TAKES_NO_MAIL

    async def _refuse(
        self,
        stream: trio.SocketStream,
        peer: Peer,
        visitor: Visitor | None,
        entrance: Entrance,
        reply: Reply,
        place: Place,
    ) -> None:
        """Turn a client away: politely, which takes a while and a socket, or in a crowd with no more than the reply.

        Such a client is no part of what the limits count.
        """
        if self._polite_refusals >= MAX_POLITE_REFUSALS:
            await self._send_away(stream, peer if visitor is None else visitor.peer, entrance, reply)
            return
        self._polite_refusals += 1
        try:
            visitor = visitor or await self._introduce(stream, peer, entrance)  # its header comes before TLS
            session = Session(stream, visitor, entrance, self._gateway, place, reply)
            self.turned_away.add(session)
            try:
                await session.run()
            finally:
                self.turned_away.discard(session)
        finally:
            self._polite_refusals -= 1

    async def _has_patience(self, network: Network | None) -> bool:
        """Whether a new client of an address that has us work for nothing waits for its turn, or there are too many."""
        seconds = 0.0 if network is None else self._gateway.efforts.spend(network, CONNECTION_SECONDS)
        if seconds > 0:
            if self._waiting >= MAX_WAITING:
                return False
            self._waiting += 1
            try:
                await trio.sleep(seconds)
            finally:
                self._waiting -= 1
        return True

    async def _send_away(self, stream: trio.SocketStream, peer: Peer, entrance: Entrance, reply: Reply) -> None:
        """Turn a client away with no more than the reply."""
        self._gateway.hits.count_reply(reply)
        self._log.info("connection refused", peer=peer.ip or "unix", reply=reply.text)
        if entrance.settings.tls is not TlsMode.IMPLICIT:  # where such a client could not read it
            self._gateway.counts.said(reply.render())
            with suppress(OSError):
                os.write(stream.socket.fileno(), reply.render())  # does not block: Trio's sockets never do
        await trio.aclose_forcefully(stream)

    async def _refuse_proxy(
        self, stream: trio.SocketStream, peer: Peer, entrance: Entrance, problem: PreludeError
    ) -> None:
        """Turn away a listed peer that did not say for whom it speaks: either of us is set up wrongly."""
        reply = self._why_closed() or catalogue.NO_PROXY_HEADER
        if reply is catalogue.NO_PROXY_HEADER:
            self._log.warning("no PROXY header", peer=peer.ip or "unix", problem=str(problem), reply=reply.text)
            if isinstance(problem, PreludeTimeoutError):
                self._gateway.hits.count(Limit.PROXY_HEADER_SECONDS)
        try:
            if entrance.settings.tls is not TlsMode.IMPLICIT:
                outlet = Outlet(StreamWire(stream), GOODBYE_SECONDS, self._gateway.counts)
                outlet.say(reply.render())
                await outlet.flush()
                await close_politely(stream)
        except ClientGoneError:
            pass
        finally:
            await trio.aclose_forcefully(stream)
