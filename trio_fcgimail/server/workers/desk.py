"""Where the parent keeps what all children of all generations share: places, rates and leases.

Children are trusted no further than the network that they read: one that gives back what it does not have is found out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Final, assert_never, final

import trio

from trio_fcgimail.config import Settings
from trio_fcgimail.server.ledger import Accounts, Rate
from trio_fcgimail.server.limits import Limit
from trio_fcgimail.server.listeners import connection_caps
from trio_fcgimail.server.metrics import Series
from trio_fcgimail.server.rates import Network
from trio_fcgimail.server.workers.channel import (
    Admit,
    AskLease,
    Count,
    Counted,
    Enter,
    ForDesk,
    FromDesk,
    LeaseGranted,
    LeasesScarce,
    Left,
    LowerLease,
    MailSeen,
    Released,
    ReleaseLease,
    Verdict,
)
from trio_fcgimail.server.workers.leases import Granted, Holder, LeaseBook, LeaseError, Notice, Scarcity
from trio_fcgimail.server.workers.totals import CountError, Totals

_RATES: Final = {rate.value: rate for rate in Rate}
_NETWORK_OCTETS: Final = (4, 8)  # of rates.network_of


@final
class MisuseError(Exception):
    """A child said what it may not say."""


@final
class _Client:
    """A child, and what it takes up.

    Attributes:
        nowhere: of its connections, how many are of no address yet.
    """

    def __init__(self, post: Callable[[FromDesk], None]) -> None:
        self.post = post
        self.nowhere = 0
        self.entered: Counter[str] = Counter()  # by their listeners
        self.admitted: Counter[Network] = Counter()


@final
class Desk:
    """Answers what children ask.

    Args:
        settings: whose limits hold at first.
        clock: seconds; must not go back.

    Attributes:
        totals: what they have counted.
    """

    def __init__(self, settings: Settings, clock: Callable[[], float] = trio.current_time) -> None:
        self._accounts = Accounts(settings.limits, clock)
        self._listeners = {""}  # that any settings have named
        self.totals = Totals()
        self._leases = LeaseBook()
        self._clients: dict[Holder, _Client] = {}
        self._last_holder = 0
        self.change(settings)

    def change(self, settings: Settings) -> None:
        """Others limits hold from here on, for the children of all settings."""
        caps = connection_caps(settings.listeners)
        self._accounts.change(settings.limits, caps)
        self._listeners |= set(caps)
        fastcgi = settings.fastcgi
        upstreams = [str(address) for address in fastcgi.upstreams]
        self._tell(self._leases.set_rules(upstreams, fastcgi.max_connections, fastcgi.reserve_for_validate))

    def join(self, post: Callable[[FromDesk], None]) -> Holder:
        """A new child; returns the number by which it is known here.

        Args:
            post: sends it a message, without waiting.
        """
        self._last_holder += 1
        self._clients[self._last_holder] = _Client(post)
        for notice in self._leases.scarce():
            post(LeasesScarce(notice.upstream, notice.is_scarce))
        return self._last_holder

    def leave(self, holder: Holder) -> None:
        """A child is gone, and everything that it took up is free."""
        client = self._clients.pop(holder)
        self.totals.leave(holder)
        for listener in client.entered.elements():
            self._accounts.leave(listener)
        for network in client.admitted.elements():
            self._accounts.release(network)
        self._tell(self._leases.forget(holder))

    def hear(self, holder: Holder, message: ForDesk) -> None:
        """Do what a child asks for.

        Raises:
            MisuseError: it may not.
        """
        client = self._clients[holder]
        match message:
            case Enter(number=number, listener=listener):
                client.post(Verdict(number, self._enter(client, listener)))
            case Admit(number=number, network=network):
                client.post(Verdict(number, self._admit(client, network)))
            case Count(number=number, limit=limit, network=network):
                client.post(Verdict(number, self._count(limit, network)))
            case Left(listener=listener):
                self._leave(client, listener)
            case Released(network=network):
                self._release(client, network)
            case AskLease() | LowerLease() | ReleaseLease():
                self._tell(self._lease(holder, message))
            case Counted():
                self._hear_counts(holder, message)
            case MailSeen():
                self.totals.see(message)
            case _:
                assert_never(message)

    def _hear_counts(self, holder: Holder, message: Counted) -> None:
        try:
            self.totals.hear(holder, [(Series(metric, labels), values) for metric, labels, values in message.samples])
        except CountError as exc:
            raise MisuseError(str(exc)) from exc

    def _enter(self, client: _Client, listener: str) -> Limit | None:
        if listener not in self._listeners:
            raise MisuseError("no such listener")
        limit = self._accounts.enter(listener)
        if limit is None:
            client.entered[listener] += 1
            client.nowhere += 1
        return limit

    def _leave(self, client: _Client, listener: str) -> None:
        if listener not in client.entered:
            raise MisuseError("a connection fewer than none")
        client.entered[listener] -= 1
        client.nowhere -= 1
        if not client.entered[listener]:
            del client.entered[listener]
        self._accounts.leave(listener)

    def _admit(self, client: _Client, network: Network) -> Limit | None:
        _check(network)
        if client.nowhere <= 0:
            raise MisuseError("more connections by address than in all")
        limit = self._accounts.admit(network)
        if limit is None:
            client.admitted[network] += 1
            client.nowhere -= 1
        return limit

    def _release(self, client: _Client, network: Network) -> None:
        if network not in client.admitted:
            raise MisuseError("a connection of that address fewer than none")
        client.admitted[network] -= 1
        client.nowhere += 1
        if not client.admitted[network]:
            del client.admitted[network]
        self._accounts.release(network)

    def _count(self, limit: Limit, network: Network) -> Limit | None:
        _check(network)
        rate = _RATES.get(limit)
        if rate is None:
            raise MisuseError(f"{limit.value} is not counted by the minute")
        return self._accounts.count(rate, network)

    def _lease(self, holder: Holder, message: AskLease | LowerLease | ReleaseLease) -> list[Notice]:
        try:
            match message:
                case AskLease(upstream=upstream, use=use):
                    return self._leases.ask(holder, upstream, use)
                case LowerLease(upstream=upstream):
                    return self._leases.lower(holder, upstream)
                case ReleaseLease(upstream=upstream, use=use):
                    return self._leases.release(holder, upstream, use)
                case _:
                    assert_never(message)
        except LeaseError as exc:
            raise MisuseError(str(exc)) from exc

    def _tell(self, notices: list[Notice]) -> None:
        for notice in notices:
            match notice:
                case Granted(holder=holder, upstream=upstream, use=use):
                    self._clients[holder].post(LeaseGranted(upstream, use))
                case Scarcity(upstream=upstream, is_scarce=is_scarce):
                    for client in self._clients.values():
                        client.post(LeasesScarce(upstream, is_scarce))
                case _:
                    assert_never(notice)


def _check(network: Network) -> None:
    if len(network) not in _NETWORK_OCTETS:
        raise MisuseError("no network")
