"""Senders: they bring every mail, again and again, until it is taken, and write down each attempt."""

import heapq
import itertools
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import trio

from tests.trust.chaos.attempts import Attempt, Attempts, Manner, Phase, Route
from tests.trust.chaos.mails import Mail, Post, Transfer
from tests.trust.chaos.wire import CutError, Doors, GoneError, HungError, RefusedError, Wire

_MAILS_OF_A_CONNECTION: Final = (1, 1, 2, 5, 10)
_FIRST_PAUSE_SECONDS: Final = 0.1  # before a mail is tried again; doubled each time
_LONGEST_PAUSE_SECONDS: Final = 3.0
_IDLE_SECONDS: Final = 0.02
_SHUT_OUT_SECONDS: Final = 0.2  # before a sender that could not connect tries again
_EARLY: Final = (Phase.GREETING, Phase.HELLO, Phase.HANDSHAKE)
_LATER: Final = tuple(phase for phase in Phase if phase not in _EARLY)
_ROUTES: Final = (Route.PLAIN, Route.PLAIN, Route.PLAIN, Route.STARTTLS, Route.IMPLICIT, Route.LMTP)


class Bag:
    """The mails that wait to be sent, new ones and those to be tried again.

    Args:
        mails: how many there are.
        may_begin: how many may have been begun by now.

    Attributes:
        changed: woken whenever a mail was begun, or an attempt is over.
    """

    def __init__(self, mails: int, may_begin: Callable[[], int]) -> None:
        self.mails = mails
        self._may_begin = may_begin
        self.begun = 0
        self.changed = trio.lowlevel.ParkingLot()
        self._again: list[tuple[float, int]] = []
        self._tries: Counter[int] = Counter()

    def take(self, shunned: set[int]) -> int | None:
        """One that is due now, other than these."""
        if self._again and self._again[0][0] <= trio.current_time() and self._again[0][1] not in shunned:
            return heapq.heappop(self._again)[1]
        if self.begun < min(self.mails, self._may_begin()):
            self.begun += 1
            self.changed.unpark_all()
            return self.begun
        return None

    def put_back(self, number: int) -> None:
        """One that was not taken; it comes again after a pause."""
        self._tries[number] += 1
        pause = min(_FIRST_PAUSE_SECONDS * 2 ** self._tries[number], _LONGEST_PAUSE_SECONDS)
        heapq.heappush(self._again, (trio.current_time() + pause, number))

    def tries(self, number: int) -> int:
        """How often it was put back."""
        return self._tries[number]

    def end(self) -> None:
        """No new one any more."""
        self.mails = self.begun

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait until something has come true that mails bring about, begun or taken."""
        while not condition():
            await self.changed.park()


@dataclass(slots=True)
class Notes:
    """What senders tell of beside their attempts."""

    cuts: Counter[Phase] = field(default_factory=Counter)
    routes: Counter[Route] = field(default_factory=Counter)
    gone: Counter[str] = field(default_factory=Counter)
    hung: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)


class Senders:
    """All of them.

    Args:
        cut_share: of the attempts that we cut ourselves, at some phase.
    """

    def __init__(self, doors: Doors, post: Post, bag: Bag, *, seed: int, cut_share: float) -> None:
        self.attempts = Attempts()
        self.notes = Notes()
        self.began = trio.current_time()
        self._doors = doors
        self._post = post
        self._bag = bag
        self._cut_share = cut_share
        self._connections = itertools.count(1)
        self._dice = random.Random(seed)

    @property
    def are_done(self) -> bool:
        """Whether every mail was taken."""
        return self.attempts.saved >= self._bag.mails

    async def run(self, senders: int) -> None:
        """Until every mail was taken."""
        async with trio.open_nursery() as nursery:
            for _ in range(senders):
                nursery.start_soon(self._send)

    async def _send(self) -> None:
        while not self.are_done:
            number = self._bag.take(set())
            if number is None:
                await trio.sleep(_IDLE_SECONDS)
            elif not await self._visit(number):
                await trio.sleep(_SHUT_OUT_SECONDS)

    async def _visit(self, number: int) -> bool:
        """One connection with this mail, and more; whether there was one."""
        connection = next(self._connections)
        visit = _Visit(self, connection, random.Random(self._dice.random()))
        self.notes.routes[visit.route] += 1
        try:
            await visit.run(number)
        except CutError:
            pass
        except GoneError as exc:
            self.notes.gone[str(exc)] += 1
        except HungError as exc:
            self.notes.hung.append(f"connection c{connection}: {exc}; {visit.attempt}")
        except RefusedError as exc:
            self.notes.refused.append(f"connection c{connection}: {exc}; {visit.attempt}")
        finally:
            visit.settle()
            await visit.close()
        return visit.was_let_in

    # For visits

    def now(self) -> float:
        """Seconds since the beginning."""
        return trio.current_time() - self.began

    def mail(self, number: int) -> Mail:
        """Make a mail."""
        return self._post.mail(number)

    def next_number(self, shunned: set[int]) -> int | None:
        """Another mail."""
        return self._bag.take(shunned)

    def settle(self, attempt: Attempt) -> None:
        """An attempt is over."""
        attempt.ended = self.now()
        self.attempts.add(attempt)
        self._bag.changed.unpark_all()
        if not attempt.replies or not all(reply.startswith("250") for reply in attempt.replies):
            self._bag.put_back(attempt.number)

    def draw_cut(self, dice: random.Random, phases: Sequence[Phase]) -> tuple[Phase, Manner] | None:
        """Where and how to cut, if at all: at one of these phases, that which was cut least often so far."""
        if dice.random() >= self._cut_share:
            return None
        fewest = min(self.notes.cuts[phase] for phase in phases)
        phase = dice.choice([phase for phase in phases if self.notes.cuts[phase] == fewest])
        return phase, dice.choice(tuple(Manner))

    @property
    def doors(self) -> Doors:
        """Where to go."""
        return self._doors


class _Visit:
    """One connection."""

    def __init__(self, senders: Senders, connection: int, dice: random.Random) -> None:
        self.attempt: Attempt | None = None
        self._senders = senders
        self._connection = connection
        self._dice = dice
        self._wire: Wire | None = None
        self._cut = senders.draw_cut(dice, tuple(Phase))
        wants_tls = self._cut is not None and self._cut[0] is Phase.HANDSHAKE
        self.route = dice.choice((Route.STARTTLS, Route.IMPLICIT) if wants_tls else _ROUTES)
        self._seen: set[int] = set()
        self._is_pipelining = dice.random() < 0.6

    @property
    def was_let_in(self) -> bool:
        """Whether there was a connection at all."""
        return self._wire is not None

    async def close(self) -> None:
        if self._wire is not None:
            await self._wire.close()

    def settle(self) -> None:
        """Nothing more is heard of the mail under way."""
        if self.attempt is not None:
            attempt, self.attempt = self.attempt, None
            self._senders.settle(attempt)

    def _begin(self, number: int) -> Attempt:
        self._seen.add(number)
        self.attempt = Attempt(number, self._connection, self.route, self._senders.now())
        return self.attempt

    async def run(self, number: int) -> None:
        """Greet, and send this mail and more. Raises what ends it early."""
        self._begin(number)
        wire = self._wire = await Wire.connect(self._senders.doors, self.route)
        await self._greet(wire)
        for left in reversed(range(self._dice.choice(_MAILS_OF_A_CONNECTION))):
            if not await self._mail(wire, self._senders.mail(number)):
                return
            following = self._senders.next_number(self._seen) if left else None
            if following is None:
                break
            number = following
            self._begin(number)
            self._cut = self._senders.draw_cut(self._dice, _LATER)
        await wire.send(b"QUIT\r\n")
        await wire.reply()

    async def _greet(self, wire: Wire) -> None:
        await self._cut_at(Phase.GREETING, wire)
        if self.route is Route.IMPLICIT:
            await self._shake_hands(wire)
        self._expect(await wire.reply(), "220")
        hello = b"%s c%d.load.example\r\n" % (b"LHLO" if self.route is Route.LMTP else b"EHLO", self._connection)
        await wire.send(hello)
        self._expect(await wire.reply(), "250")
        await self._cut_at(Phase.HELLO, wire)
        if self.route is Route.STARTTLS:
            await wire.send(b"STARTTLS\r\n")
            self._expect(await wire.reply(), "220")
            await self._shake_hands(wire)
            await wire.send(hello)
            self._expect(await wire.reply(), "250")
        if self._cut is not None and self._cut[0] in _EARLY:
            self._cut = None

    async def _shake_hands(self, wire: Wire) -> None:
        if self._cut is not None and self._cut[0] is Phase.HANDSHAKE:
            await wire.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc")  # the beginning of a ClientHello
        await self._cut_at(Phase.HANDSHAKE, wire)
        await wire.encrypt(self._senders.doors.trusting)

    async def _cut_at(self, phase: Phase, wire: Wire) -> None:
        """Cut the connection if that is planned for here. Raises CutError."""
        if self._cut is None or self._cut[0] is not phase:
            return
        _, manner = self._cut
        self._cut = None
        self._senders.notes.cuts[phase] += 1
        if self.attempt is not None:
            self.attempt.note = f"we cut it {phase.value}, {manner.value}"
        if manner is Manner.HALF and self.route is not Route.IMPLICIT:
            await wire.end_sending()
            if phase is Phase.ANSWER:
                return  # the answer may still come
            while True:
                await wire.reply()  # GoneError ends it
        await wire.cut(manner)
        raise CutError

    def _expect(self, reply: str, *codes: str) -> bool:
        """Whether it is one of these codes. Raises GoneError at a 4xx, RefusedError at a 5xx."""
        if reply.startswith(codes):
            return True
        if self.attempt is not None and not self.attempt.note:
            self.attempt.note = reply
        if not reply.startswith("4"):
            if self.attempt is not None:
                self.attempt.is_refused = True
            raise RefusedError(reply)
        raise GoneError(f"told {reply[:3]}")

    async def _mail(self, wire: Wire, mail: Mail) -> bool:
        """One mail; whether the connection goes on."""
        attempt = self.attempt
        assert attempt is not None
        accepted = await self._envelope(wire, mail)
        if accepted < len(mail.recipients):  # to be sent to all of them or not at all
            attempt.note = f"{accepted} of {len(mail.recipients)} recipients taken"
            if mail.transfer is Transfer.DATA and self._is_pipelining:
                return False  # in the midst of data that nobody means
            self.settle()
            await wire.send(b"RSET\r\n")
            self._expect(await wire.reply(), "250")
            return True
        await self._cut_at(Phase.BEGUN, wire)
        await self._content(wire, mail, attempt)
        await self._answers(wire, mail, attempt)
        goes_on = not any(reply.startswith("421") for reply in attempt.replies)
        self.settle()
        return goes_on

    async def _envelope(self, wire: Wire, mail: Mail) -> int:
        """How many recipients were taken; 354 has come if it is DATA."""
        commands = [f"MAIL FROM:<{mail.sender}>{mail.parameters}", *(f"RCPT TO:<{one}>" for one in mail.recipients)]
        lines = [command.encode() + b"\r\n" for command in commands]
        begins_data = mail.transfer is Transfer.DATA
        if self._is_pipelining and not self._is_cut_in_envelope():
            await wire.send(b"".join([*lines, b"DATA\r\n"] if begins_data else lines))
            self._expect(await wire.reply(), "250")
            taken = 0
            for _ in mail.recipients:
                taken += self._is_taken(await wire.reply())
            if begins_data:
                reply = await wire.reply()
                if taken:
                    self._expect(reply, "354")
            return taken
        taken = 0
        for line in lines:
            await wire.send(line)
            if line is lines[0]:
                self._expect(await wire.reply(), "250")
                await self._cut_at(Phase.MAIL, wire)
            else:
                taken += self._is_taken(await wire.reply())
        await self._cut_at(Phase.RECIPIENTS, wire)
        if begins_data and taken == len(mail.recipients):
            await wire.send(b"DATA\r\n")
            self._expect(await wire.reply(), "354")
        return taken

    def _is_cut_in_envelope(self) -> bool:
        return self._cut is not None and self._cut[0] in {Phase.MAIL, Phase.RECIPIENTS}

    def _is_taken(self, reply: str) -> bool:
        if reply.startswith("4"):
            return False
        return self._expect(reply, "250")

    async def _content(self, wire: Wire, mail: Mail, attempt: Attempt) -> None:
        """All of it; when this returns, the end of it may have arrived."""
        parts = [mail.stuffed()] if mail.transfer is Transfer.DATA else mail.chunks(self._dice)
        data = b"".join(parts)
        if self._cut is not None and self._cut[0] in {Phase.CONTENT, Phase.LAST_OCTET}:
            await wire.send(data[: -1 if self._cut[0] is Phase.LAST_OCTET else self._dice.randrange(len(data))])
            await self._cut_at(self._cut[0], wire)
        if mail.transfer is Transfer.DATA or self._is_pipelining:
            attempt.is_sent = True
            await wire.send(data)
        else:
            for part in parts[:-1]:
                await wire.send(part)
                await self._chunk_reply(wire, attempt)
            attempt.is_sent = True
            await wire.send(parts[-1])
            return
        for _ in parts[:-1]:
            await self._chunk_reply(wire, attempt)

    async def _chunk_reply(self, wire: Wire, attempt: Attempt) -> None:
        """To a BDAT that is not the last: 452 when the spool is full, which the last will be told as well."""
        reply = await wire.reply()
        if not reply.startswith("452"):
            self._expect(reply, "250")

    async def _answers(self, wire: Wire, mail: Mail, attempt: Attempt) -> None:
        await self._cut_at(Phase.ANSWER, wire)
        owed = len(mail.recipients) if self.route is Route.LMTP else 1
        while len(attempt.replies) < owed:
            try:
                reply = await wire.reply()
            except GoneError:
                attempt.replies += [""] * (owed - len(attempt.replies)) if attempt.replies else []
                raise
            attempt.replies.append(reply)
            if not reply.startswith(("250", "4")):
                attempt.is_refused = True
                raise RefusedError(reply)
            if reply.startswith("421"):
                break
