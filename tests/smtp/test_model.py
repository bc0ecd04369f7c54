"""Random sessions against a model of RFC 5321, and against themselves cut otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, final

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fuzz.targets import smtp_server
from fuzz.targets.smtp_server import (
    MAX_PIECE_OCTETS,
    Handshake,
    Judge,
    Piece,
    assert_cutting_shows_nowhere,
    read_replies,
    run,
    scenes,
)
from tests.smtp.support import LMTP_OPTIONS, OPTIONS
from trio_fcgimail.smtp import Answerable, Connected, Mechanism, Reply, ServerOptions, Tls, catalogue

MAX_MESSAGE_OCTETS: Final = 60_000  # more than all steps of a session that are not BIG_CHUNK


class Step(Enum):
    """What a client does, in the words of the wire."""

    EHLO = b"EHLO x\r\n"
    HELO = b"HELO x\r\n"
    LHLO = b"LHLO x\r\n"
    BAD_EHLO = b"EHLO (\r\n"
    MAIL = b"MAIL FROM:<a@b.c>\r\n"
    BINARY_MAIL = b"MAIL FROM:<a@b.c> BODY=BINARYMIME\r\n"
    BAD_MAIL = b"MAIL FROM:<a@>\r\n"
    BIG_MAIL = b"MAIL FROM:<a@b.c> SIZE=99999999999\r\n"
    RCPT = b"RCPT TO:<d@e.f>\r\n"
    BAD_RCPT = b"RCPT TO:<>\r\n"
    DATA = b"DATA\r\n"
    BAD_DATA = b"DATA x\r\n"
    RSET = b"RSET\r\n"
    NOOP = b"NOOP\r\n"
    VRFY = b"VRFY d\r\n"
    HELP = b"HELP\r\n"
    CHUNK = b"BDAT 6\r\nQUIT\r\n"
    LAST_CHUNK = b"BDAT 6 LAST\r\nQUIT\r\n"
    EMPTY_CHUNK = b"BDAT 0\r\n"
    EMPTY_LAST_CHUNK = b"BDAT 0 LAST\r\n"
    BARE_CHUNK = b"BDAT 3\r\na\nb"
    BIG_CHUNK = b"BDAT 60001 LAST\r\n" + b"x" * 60_001
    BAD_CHUNK = b"BDAT x\r\n"
    STARTTLS = b"STARTTLS\r\n"
    HANDSHAKE = Handshake.DONE.value
    NO_HANDSHAKE = Handshake.FAILED.value
    TLS_HELLO = b"\x16\3\1\r\n"
    AUTH = b"AUTH PLAIN AGEAYg==\r\n"
    BAD_AUTH = b"AUTH XYZZY\r\n"
    AUTH_PLAIN = b"AUTH PLAIN\r\n"
    AUTH_LOGIN = b"AUTH LOGIN\r\n"
    PLAIN_RESPONSE = b"AGEAYg==\r\n"
    LOGIN_RESPONSE = b"YQ==\r\n"
    CANCEL = b"*\r\n"
    UNKNOWN = b"XYZZY\r\n"
    BARE_LF = b"NOOP\nNOOP\r\n"
    LONG = b"x" * 2100 + b"\r\n"
    QUIT = b"QUIT\r\n"
    BODY = b"Subject: x\r\n\r\n..\r\n\r\n.\r\n"
    BARE_BODY = b"x\n.\n\r\n.\r\n"


Codes = list[int]
CHUNKS: Final = {  # and whether they are the last
    Step.CHUNK: False,
    Step.EMPTY_CHUNK: False,
    Step.BARE_CHUNK: False,
    Step.LAST_CHUNK: True,
    Step.EMPTY_LAST_CHUNK: True,
    Step.BIG_CHUNK: True,
}
GREETED = (Step.EHLO, Step.HELO, Step.LHLO)
ANYWHERE: Final[Mapping[Step, int]] = {
    Step.NOOP: 250,
    Step.VRFY: 252,
    Step.HELP: 214,
    Step.UNKNOWN: 500,
    Step.BARE_LF: 500,
    Step.LONG: 500,
    Step.PLAIN_RESPONSE: 500,
    Step.LOGIN_RESPONSE: 500,
    Step.CANCEL: 500,
}
MARKS: Final = {Step.HANDSHAKE: Handshake.DONE, Step.NO_HANDSHAKE: Handshake.FAILED}
AUTHS: Final = (Step.AUTH, Step.BAD_AUTH, Step.AUTH_PLAIN, Step.AUTH_LOGIN)
BODY_AS_COMMANDS: Final[Mapping[Step, Codes]] = {  # one 500 for each line that is no data
    Step.BODY: [500] * 5,
    Step.BARE_BODY: [500] * 2,
}
VERDICTS: Final[Mapping[int, Reply | None]] = {
    250: None,
    451: catalogue.LOCAL_ERROR,
    550: catalogue.NO_SUCH_USER,
    421: catalogue.SHUTTING_DOWN,
}


@final
@dataclass(slots=True)
class Model:
    """A server in the words of RFC 5321, 3030, 3207 and 4954.

    A greeting, a sender, how many recipients, the data or chunks; TLS, a login, and the responses that it waits for.
    """

    lmtp: bool
    verdicts: list[int]
    greeting: Step | None = None
    sender: bool = False
    recipients: int = 0
    binary: bool = False
    data: bool = False
    bare: bool = False
    big: int = 0
    chunks: bool = False
    refusal: int | None = None
    closed: bool = False
    tls: bool = False
    handshake_due: bool = False
    login: bool = False
    exchange: list[Step] = field(default_factory=list)  # the responses that are still to come

    def ask(self, accepted: int) -> int:
        code = self.verdicts.pop(0) if self.verdicts else 250
        self.closed = self.closed or code == 421
        return accepted if code == 250 else code

    def forget(self) -> None:
        self.sender, self.recipients, self.binary, self.data = False, 0, False, False
        self.bare, self.big, self.chunks, self.refusal = False, 0, False, None

    def codes(self, step: Step) -> Codes:
        if step in MARKS or self.handshake_due:
            return self.end_handshake(step)
        if self.data:
            return self.more_data(step)
        if step is Step.TLS_HELLO:
            self.closed = True
            return [421]
        if self.exchange:
            return self.respond(step)
        if step in CHUNKS:
            return self.chunk(step)
        return BODY_AS_COMMANDS.get(step) or [self.code(step)]

    def more_data(self, step: Step) -> Codes:
        self.bare = self.bare or step in (Step.BARE_LF, Step.BARE_BODY, Step.BARE_CHUNK)
        self.big += step is Step.BIG_CHUNK
        if self.big > 1:
            self.closed = True
            return [552]
        self.refusal = 552 if self.big else 550 if self.bare else None
        return self.end() if step in BODY_AS_COMMANDS else []  # any other step is data here

    def chunk(self, step: Step) -> Codes:
        if self.greeting is Step.HELO:
            return [502]
        if not self.recipients:
            return [503]
        if self.refusal is None and step is Step.BIG_CHUNK:
            self.refusal = 552
        if self.refusal is None and not self.chunks:
            code = self.ask(0)
            if self.closed:
                return [code]
            self.chunks, self.refusal = True, code or None
        if self.refusal is None and step is Step.BARE_CHUNK and not self.binary:
            self.refusal = 550
        return self.end() if CHUNKS[step] else [self.refusal or 250]

    def end(self) -> Codes:
        each = self.recipients if self.lmtp else 1
        codes = [self.ask(250) for _ in range(each)] if self.refusal is None else [self.refusal] * each
        self.forget()
        return codes

    def end_handshake(self, step: Step) -> Codes:
        if self.handshake_due:
            self.closed = step is not Step.HANDSHAKE  # whatever else comes is no TLS
            self.forget()
            self.greeting, self.login, self.tls, self.handshake_due = None, False, True, False
        return []

    def respond(self, step: Step) -> Codes:
        """The first line of the step is a response; what is behind it is commands again."""
        assume(step not in (Step.BARE_CHUNK, Step.BIG_CHUNK))  # their last line would go on in the next step
        if step is self.exchange[0]:
            del self.exchange[0]
            return [334] if self.exchange else [self.authenticate()]
        self.exchange.clear()
        if step in (Step.CHUNK, Step.LAST_CHUNK):
            self.closed = True
            return [501, 221]
        return [501, *BODY_AS_COMMANDS.get(step, [])[1:]]

    def authenticate(self) -> int:
        code = self.ask(235)
        self.login = code == 235
        return code

    def auth(self, step: Step) -> int:
        if self.greeting is Step.HELO:
            return 502
        if not self.tls:
            return 538
        if self.greeting is None or self.sender or self.login:
            return 503
        match step:
            case Step.BAD_AUTH:
                return 504
            case Step.AUTH_PLAIN:
                self.exchange = [Step.PLAIN_RESPONSE]
                return 334
            case Step.AUTH_LOGIN:
                self.exchange = [Step.LOGIN_RESPONSE, Step.LOGIN_RESPONSE]
                return 334
            case _:
                return self.authenticate()

    def starttls(self) -> int:
        if self.greeting is Step.HELO:
            return 502
        if self.tls or self.greeting is None:
            return 503
        code = self.ask(220)
        self.handshake_due = code == 220
        return code

    def code(self, step: Step) -> int:
        if step in AUTHS:
            return self.auth(step)
        if step is Step.STARTTLS:
            return self.starttls()
        if step in (*GREETED, Step.BAD_EHLO):
            return self.greet(step)
        if step is Step.QUIT:
            self.closed = True
            return 221
        if step is Step.BAD_CHUNK:
            self.closed = True
            return 501
        if step is Step.RSET:
            self.forget()
            return 250
        return ANYWHERE.get(step) or self.transaction(step)

    @property
    def in_chunks(self) -> bool:
        return self.chunks or self.refusal is not None

    def greet(self, step: Step) -> int:
        if (step is Step.LHLO) != self.lmtp:
            return 500
        if step is Step.BAD_EHLO:
            return 501
        if (code := self.ask(250)) == 250:
            self.greeting = step
            self.forget()
        return code

    def transaction(self, step: Step) -> int:
        match step:
            case Step.MAIL | Step.BINARY_MAIL | Step.BAD_MAIL | Step.BIG_MAIL if self.sender or self.greeting is None:
                return 503
            case Step.BINARY_MAIL if self.greeting is Step.HELO:
                return 555
            case Step.BAD_MAIL:
                return 501
            case Step.BIG_MAIL:
                return 555 if self.greeting is Step.HELO else 552
            case Step.MAIL | Step.BINARY_MAIL:
                code = self.ask(250)
                self.sender = code == 250
                self.binary = self.sender and step is Step.BINARY_MAIL
                return code
            case Step.RCPT | Step.BAD_RCPT if not self.sender or self.in_chunks:
                return 503
            case Step.BAD_RCPT:
                return 501
            case Step.RCPT:
                code = self.ask(250)
                self.recipients += code == 250
                return code
            case Step.DATA | Step.BAD_DATA if not self.recipients or self.in_chunks:
                return 503
            case Step.BAD_DATA:
                return 501
            case Step.DATA if self.binary:
                return 503
            case _:
                code = self.ask(354)
                self.data = code == 354
                return code


def judge(verdicts: list[int]) -> Judge:
    """The verdicts in turn, the banner apart; then everything is accepted."""
    left = list(verdicts)

    def answer(event: Answerable) -> Reply | None:
        return VERDICTS[left.pop(0)] if left and not isinstance(event, Connected) else None

    return answer


def expected(steps: list[Step], lmtp: bool, tls: bool, verdicts: list[int]) -> Codes:
    """What the model answers, up to the reply that closes."""
    model = Model(lmtp, list(verdicts), tls=tls)
    codes = [220]
    for step in steps:
        if model.closed:
            break
        codes += model.codes(step)
    return codes


def without_limits(options: ServerOptions, tls: bool) -> ServerOptions:
    return ServerOptions(
        hostname=options.hostname,
        dialect=options.dialect,
        tls=Tls.ACTIVE if tls else Tls.AVAILABLE,
        auth_mechanisms=frozenset(Mechanism),
        max_message_octets=MAX_MESSAGE_OCTETS,
        max_bad_commands=None,
        max_refused_recipients=None,
    )


# A way through a whole mail, so that chance alone does not have to find it
WAYS = st.sampled_from(
    [
        [Step.EHLO],
        [Step.LHLO],
        [Step.MAIL, Step.RCPT],
        [Step.BINARY_MAIL, Step.RCPT],
        [Step.RCPT, Step.RCPT],
        [Step.DATA, Step.BODY],
        [Step.CHUNK, Step.LAST_CHUNK],
        [Step.STARTTLS, Step.HANDSHAKE],
        [Step.EHLO, Step.STARTTLS, Step.NOOP, Step.HANDSHAKE, Step.NOOP],
        [Step.EHLO, Step.STARTTLS, Step.HANDSHAKE, Step.EHLO],
        [Step.AUTH_LOGIN, Step.LOGIN_RESPONSE, Step.LOGIN_RESPONSE],
        [Step.AUTH_LOGIN, Step.RSET],  # whose letters are base64
        [Step.AUTH_LOGIN, Step.PLAIN_RESPONSE],
        [Step.AUTH_PLAIN, Step.PLAIN_RESPONSE],
        [Step.EHLO, Step.AUTH_PLAIN, Step.CANCEL, Step.NOOP],
    ]
)
STEPS = st.lists(WAYS | st.sampled_from(Step).map(lambda step: [step]), max_size=14).map(
    lambda ways: [step for way in ways for step in way]
)
VERDICT_LISTS = st.lists(st.sampled_from([250, 250, 250, 250, 451, 550, 421]), max_size=8)
SIZES = st.lists(st.integers(1, 40), min_size=1, max_size=4)


@settings(deadline=None)
@given(STEPS, st.booleans(), st.booleans(), VERDICT_LISTS, SIZES)
def test_session_answers_as_the_model(
    steps: list[Step], lmtp: bool, tls: bool, verdicts: list[int], sizes: list[int]
) -> None:
    options = without_limits(LMTP_OPTIONS if lmtp else OPTIONS, tls)
    wire = b"".join(step.value for step in steps)
    pieces: list[Piece] = [MARKS.get(step, step.value) for step in steps]
    one_by_one = run(options, judge(verdicts), pieces)
    pipelined = run(options, judge(verdicts), scenes(wire, [MAX_PIECE_OCTETS]))
    split = run(options, judge(verdicts), scenes(wire, sizes))
    answered = [reply.code for reply in read_replies(bytes(one_by_one.output))]
    assert answered == expected(steps, lmtp, tls, verdicts)
    assert_cutting_shows_nowhere(pipelined, one_by_one)
    assert_cutting_shows_nowhere(pipelined, split)


HEADERS = st.tuples(st.integers(0, 127), st.binary(min_size=7, max_size=7)).map(lambda it: bytes([it[0]]) + it[1])
TOKENS = st.sampled_from(
    [
        *(step.value for step in Step if step is not Step.BIG_CHUNK),
        b"BDAT 5000\r\n" + b"x" * 5000,
        b"\r",
        b"\n",
        b".",
        b"\r\n.\r\n",
        b"\n.\n",
        b"x" * 30,
        b"MAIL FROM:<> SMTPUTF8\r\n",
        "RCPT TO:<\u00fc@b.c>\r\n".encode(),
        b"\xff",
        b"XCLIENT LOGIN=a PORT=1\r\n",
        b"AUTH PLAIN " + b"A" * 2040 + b"\r\n",
        b"A" * 12290 + b"\r\n",
    ]
) | st.binary(max_size=8)


@settings(deadline=None)
@given(HEADERS, st.lists(TOKENS, max_size=24).map(b"".join), st.booleans())
def test_invariants_of_the_fuzz_target(header: bytes, wire: bytes, way_in: bool) -> None:
    hello = b"LHLO x\r\n" if header[0] & 1 else b"EHLO x\r\n"
    smtp_server.check(header + (hello + Step.MAIL.value + Step.RCPT.value if way_in else b"") + wire)
