"""The walk: rules that hypothesis puts in any order, and that shrink to the shortest walk that goes wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from copy import deepcopy
from enum import Enum, auto
from typing import ClassVar, Final, assert_never

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.trust.walks.driver import Driver
from tests.trust.walks.model import House, Model
from tests.trust.walks.moods import MOODS, YES, Mood
from tests.trust.walks.steps import CRLF, Chunk, Content, Greet, Plain, Recipient, Sender, Step

GOOD: Final = st.just(YES)
#: Half of them good: a walk that is refused everything sees little.
MOOD: Final = st.one_of(GOOD, st.sampled_from(MOODS))
WORDS: Final = st.sampled_from(["EHLO", "EHLO", "HELO", "LHLO", "LHLO"])
SENDERS: Final = st.builds(Sender, MOOD, MOOD, st.sampled_from([None, None, None, 12, 1001]))
RECIPIENTS: Final = st.builds(
    Recipient, st.integers(0, 3), MOOD, st.sampled_from(["example.com", "example.com", "example.com", "example.net"])
)
SOME_RECIPIENTS: Final = st.lists(RECIPIENTS, min_size=1, max_size=3)
PIECES: Final = st.sampled_from(
    [b"Subject: x", b".", b"..", b".x", b"", b"QUIT", b"\xff\x00=&%+", b"a" * 90, b"b" * 600, b"<TLS>", b"From ", b"\t"]
)
GOOD_TEXTS: Final = st.lists(PIECES, max_size=5).map(lambda lines: b"".join(line + CRLF for line in lines))
BARE: Final = st.sampled_from([b"x\ny\r\n", b"x\ry\r\n", b"\n.\n\r\n", b"\r.\r\r\n"])
TEXTS: Final = st.one_of(GOOD_TEXTS, GOOD_TEXTS, GOOD_TEXTS, st.tuples(GOOD_TEXTS, BARE, GOOD_TEXTS).map(b"".join))
OCTETS: Final = st.one_of(TEXTS, st.sampled_from([b"", b"\r", b"\n", b"no line", b".\r\n", b"QUIT\r\n"]))
CHUNKS: Final = st.builds(Chunk, OCTETS, st.booleans())
COMMANDS: Final = st.sampled_from([plain for plain in Plain if plain is not Plain.STARTTLS])
STEPS: Final = st.one_of(
    st.builds(Greet, WORDS, MOOD), SENDERS, SENDERS, RECIPIENTS, RECIPIENTS, RECIPIENTS, CHUNKS, COMMANDS
)


class End(Enum):
    """How a client stops talking."""

    VANISH = auto()
    HALF_CLOSE = auto()
    INJECT = auto()
    SILENCE = auto()


class Walk(RuleBasedStateMachine):
    """One walk; a subclass says where the server runs.

    Attributes:
        counts: of all walks: steps, replies by their code, mails that were promised, faults.
    """

    counts: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self._driver: Driver | None = None

    def open_server(self, house: House) -> Driver:
        """Where the server runs is for a subclass to say."""
        raise NotImplementedError

    def choose(self, house: House) -> House:
        """A house that there is; a subclass may have fewer of them."""
        return house

    @property
    def driver(self) -> Driver:
        assert self._driver is not None
        return self._driver

    @initialize(house=st.builds(House, st.booleans(), st.booleans(), st.booleans(), st.booleans()))
    def begin(self, house: House) -> None:
        house = self.choose(house)
        self._driver = self.open_server(house)
        self.house, self.model = house, Model(house)
        self.counts["walks"] += 1

    @property
    def word(self) -> str:
        """The greeting with which everything is possible."""
        return "LHLO" if self.house.lmtp else "EHLO"

    def say(self, *steps: Step) -> None:
        """Send some steps in one write, and hold the replies against what the model owes."""
        if self.model.retires:
            self._say_one_by_one(steps)
            return
        owed: list[int] = []
        for step in steps:
            if self.model.closed or self.model.in_data is not isinstance(step, Content):
                break
            owed += self.model.hear(step)
            self.counts["steps"] += 1
        self.driver.send(b"".join(step.wire for step in steps))
        self.read(owed)

    def _say_one_by_one(self, steps: Sequence[Step]) -> None:
        """To a server that may say 421 instead, where the model allows it; then nothing of the step was done."""
        for step in steps:
            if self.model.closed or self.model.in_data is not isinstance(step, Content):
                return
            before = deepcopy(self.model)
            owed = self.model.hear(step)
            self.counts["steps"] += 1
            self.driver.send(step.wire)
            first = self.driver.reply()
            if first == 421 and before.may_be_told_to_go:
                self.model = before
                self.model.vanish()
                self.counts["told to go"] += 1
                self.leave()
                return
            self.read(owed, [first])

    def read(self, owed: list[int], heard: Sequence[int] = ()) -> None:
        replies = [*heard, *(self.driver.reply() for _ in owed[len(heard) :])]
        assert replies == owed, f"the server says {replies}, the model {owed}"
        self.counts.update(map(str, replies))
        if self.model.closed:
            self.leave()

    def leave(self) -> None:
        """The server has said its last word, and nothing behind it."""
        rest = self.driver.rest()
        assert not rest, f"after the last reply the server says {rest!r}"
        self.driver.vanish()

    @property
    def is_listening(self) -> bool:
        """Whether commands are read."""
        return self._driver is not None and not self.model.closed and not self.model.in_data

    @property
    def is_in_data(self) -> bool:
        return self._driver is not None and not self.model.closed and self.model.in_data

    # What a client does

    @precondition(lambda self: self._driver is not None and self.model.closed)
    @rule()
    def connect(self) -> None:
        owed = self.model.connect()
        self.driver.connect()
        self.read(owed)

    @precondition(lambda self: self.is_listening)
    @rule(steps=st.lists(STEPS, min_size=1, max_size=4))
    def command(self, steps: list[Step]) -> None:
        data = next((at for at, step in enumerate(steps) if step is Plain.DATA), len(steps) - 1)
        self.say(*steps[: data + 1])

    @precondition(lambda self: self.is_listening)
    @rule(sender=SENDERS, recipients=st.lists(RECIPIENTS, min_size=1, max_size=4), word=WORDS)
    def envelope(self, sender: Sender, recipients: list[Recipient], word: str) -> None:
        """As a client that pipelines would send it; most of a walk is beyond that."""
        greeting: list[Step] = [] if self.model.greeting else [Greet("LHLO" if self.house.lmtp else word, YES)]
        self.say(*greeting, sender, *recipients)

    @precondition(lambda self: self.is_listening)
    @rule(save=MOOD, recipients=SOME_RECIPIENTS, text=TEXTS)
    def whole_mail(self, save: Mood, recipients: list[Recipient], text: bytes) -> None:
        """All that it takes, whatever was before."""
        self.say(Greet(self.word, YES), Sender(YES, save), *recipients)
        if self.is_listening and self.model.recipients:
            self.mail_by_data(text=text)

    @precondition(lambda self: self.is_listening)
    @rule(save=MOOD, recipients=SOME_RECIPIENTS, octets=st.lists(OCTETS, max_size=2), text=TEXTS)
    def whole_mail_by_chunks(self, save: Mood, recipients: list[Recipient], octets: list[bytes], text: bytes) -> None:
        """The same, and all in one write."""
        chunks = [*(Chunk(piece, False) for piece in octets), Chunk(text, True)]
        self.say(Greet(self.word, YES), Sender(YES, save), *recipients, *chunks)

    @precondition(lambda self: self.is_listening and self.model.recipients)
    @rule(text=TEXTS)
    def mail_by_data(self, text: bytes) -> None:
        self.say(Plain.DATA)
        if self.is_in_data:
            self.say(Content(text))

    @precondition(lambda self: self.is_listening and self.model.recipients)
    @rule(octets=st.lists(OCTETS, max_size=2), text=TEXTS)
    def mail_by_chunks(self, octets: list[bytes], text: bytes) -> None:
        self.say(*(Chunk(piece, False) for piece in octets), Chunk(text, True))

    @precondition(lambda self: self.is_listening)
    @rule(save=MOOD, recipients=SOME_RECIPIENTS)
    def everything_but_the_mail(self, save: Mood, recipients: list[Recipient]) -> None:
        """Up to the 354; what comes then is for other rules."""
        self.say(Greet(self.word, YES), Sender(YES, save), *recipients, Plain.DATA)

    @precondition(lambda self: self.is_in_data)
    @rule(text=st.one_of(TEXTS, TEXTS, st.sampled_from([b"x" * 1100 + CRLF, b"x" * 2100 + CRLF])))
    def content(self, text: bytes) -> None:
        self.say(Content(text))

    @precondition(lambda self: self.is_listening)
    @rule()
    def starttls(self) -> None:
        self.say(Plain.STARTTLS)
        if self.model.handshake_due:
            self.driver.shake_hands()
            self.model.shake_hands()

    # What goes wrong

    @precondition(lambda self: self.is_listening)
    @rule(end=st.sampled_from(End), steps=st.lists(STEPS, min_size=1, max_size=2))
    def end_between_commands(self, end: End, steps: list[Step]) -> None:
        self.counts["faults"] += 1
        if self.model.retires:  # what it hears may be its 421
            end = End.VANISH
        match end:
            case End.VANISH:
                self.model.vanish()
                self.driver.vanish()
            case End.HALF_CLOSE:
                self.half_close()
            case End.INJECT:
                self.inject(steps)
            case End.SILENCE:
                self.keep_silent()
            case _:
                assert_never(end)

    def half_close(self) -> None:
        """TLS knows no half of a connection: there the client just goes."""
        is_plain = not self.model.tls
        self.model.vanish()
        if is_plain:
            self.driver.half_close()
            self.leave()
        else:
            self.driver.vanish()

    def inject(self, steps: list[Step]) -> None:
        """Whoever speaks in the clear behind STARTTLS is not heard at all (RFC 3207 4.2, CVE-2011-0411)."""
        owed = self.model.hear(Plain.STARTTLS)
        if self.model.handshake_due:
            self.driver.send(Plain.STARTTLS.wire + b"".join(step.wire for step in steps))
            self.model.vanish()
            owed = [554]
        else:
            self.driver.send(Plain.STARTTLS.wire)
        self.read(owed)

    def keep_silent(self) -> None:
        """RFC 5321 4.5.3.2: a server need not wait for ever. Where time is real nobody waits so long."""
        if self.driver.can_wait:
            self.model.vanish()
            self.read([421])

    @precondition(lambda self: self.is_in_data)
    @rule(text=TEXTS, kept=st.integers(0, 30))
    def vanish_within_a_mail(self, text: bytes, kept: int) -> None:
        """Whatever has come of it, the end has not: no script sees it."""
        self.counts["faults"] += 1
        self.driver.send((Content(text).wire[:-3] + b"." * 30)[:kept])
        self.model.vanish()
        self.driver.vanish()

    @precondition(lambda self: self.is_in_data)
    @rule(text=TEXTS)
    def vanish_behind_the_end(self, text: bytes) -> None:
        """The script has it, and nobody hears the verdict."""
        self.counts["faults"] += 1
        promised = self.model.promised
        self.model.hear(Content(text))
        self.model.vanish()
        self.counts["verdicts lost"] += self.model.promised > promised
        self.driver.send(Content(text).wire)
        self.driver.vanish()

    @precondition(lambda self: self.is_in_data)
    @rule()
    def end_within_data(self) -> None:
        self.counts["faults"] += 1
        self.half_close()

    @precondition(lambda self: self.is_listening)
    @rule(steps=st.lists(STEPS, max_size=3), recipients=SOME_RECIPIENTS, text=TEXTS)
    def scripts_are_away(self, steps: list[Step], recipients: list[Recipient], text: bytes) -> None:
        """Whoever answers has to put everything off that is asked meanwhile."""
        self.counts["faults"] += 1
        self.set_down(True)
        if steps:
            self.command(steps=steps)
        if self.is_listening:
            self.say(Greet(self.word, YES))
        self.set_down(False)
        if self.is_listening and self.model.greeting is not None and self.model.sender is None:
            self.say(Sender(YES, YES), *recipients)
        self.set_down(True)
        if self.is_listening and self.model.recipients:
            self.mail_by_data(text=text)
        self.set_down(False)

    def set_down(self, is_down: bool) -> None:
        self.driver.set_down(is_down)
        self.model.is_down = is_down

    @precondition(lambda self: self._driver is not None and self.driver.can_reload)
    @rule(is_good=st.booleans(), is_time=st.sampled_from([True, False, False]))
    def settings_are_read_again(self, is_good: bool, is_time: bool) -> None:
        """Now and then: it takes a server longer than all the rest."""
        if not is_time:
            return
        self.counts["reloads"] += 1
        self.driver.reload(is_good=is_good)
        self.model.retires = self.model.retires or is_good

    # What must hold

    @invariant()
    def scripts_saw_what_the_model_says(self) -> None:
        if self._driver is not None:
            seen = self.driver.seen()
            assert seen == self.model.seen, f"the scripts saw {seen}, the model {self.model.seen}"

    @invariant()
    def every_promise_was_kept_by_a_script(self) -> None:
        if self._driver is not None:
            saves = sum(seen.stage == "save" for seen in self.driver.seen())
            assert self.model.promised <= saves * (3 if self.house.lmtp else 1)

    @invariant()
    def nothing_is_left(self) -> None:
        if self._driver is not None and self.model.closed:
            self.driver.check_nothing_is_left()

    def teardown(self) -> None:
        if self._driver is not None:
            self._driver.close()
