"""An accepted mail is never lost: whatever is not a verdict of the script is 451, on time, and never 250.

Each fault is played by a responder that does exactly that, at RCPT and after the final dot. Time is Trio's test clock.
"""

from dataclasses import dataclass
from enum import Enum
from operator import attrgetter
from typing import Final

import pytest
import trio
from trio.testing import MockClock

from tests.support import (
    HEAD,
    MAIL,
    TEMPFAIL,
    Act,
    Dialogue,
    House,
    Journal,
    Line,
    ScriptedResponder,
    elapsed,
    end,
    octet_by_octet,
    refuse,
    stderr,
    stdout,
)
from trio_fcgimail.fastcgi import ProtocolStatus, RecordType, encode_record

pytestmark = pytest.mark.trio

VALIDATE_SECONDS: Final = 5.0
SAVE_SECONDS: Final = 30.0
GIVE_UP_SECONDS: Final = 2.0
MOMENT: Final = 0.5
REJECTED: Final = b"554 5.3.0 Message not accepted\r\n"
STORED: Final = b"250 2.0.0 OK: queued as "
BIG: Final = b"Subject: big\r\n\r\n" + 6000 * (60 * b"x" + b"\r\n")

TOML: Final = """
[scripts]
validate = "/srv/mail/validate.php"
unexpected_output = "{unexpected}"
[spool]
memory_octets = 2000000
"""


class Stage(Enum):
    """Where the fault happens: the token that would be a yes, and how long the script may take, in all tries."""

    VALIDATE = (b"PASSED", 2 * VALIDATE_SECONDS)
    SAVE = (b"SAVED", SAVE_SECONDS)

    @property
    def token(self) -> bytes:
        return self.value[0]

    @property
    def seconds(self) -> float:
        return self.value[1]


class Ends(Enum):
    """When the answer is due."""

    AT_ONCE = "nothing is left to wait for"
    GIVE_UP = "nothing was sent, and trying again is over"
    DEADLINE = "the script's time is over"


class Kind(Enum):
    """What it is by the table of docs/scripts.md."""

    FAILURE = "451 whatever the settings say"
    UNEXPECTED = "451, or 554 at save for those who ask for it"


@dataclass(frozen=True)
class Fault:
    """A fault by name; `act` is made for the token that would be a yes."""

    id: str
    act: "Act | Acts"
    ends: Ends = Ends.AT_ONCE
    kind: Kind = Kind.FAILURE
    mail: bytes = MAIL
    stages: tuple[Stage, ...] = tuple(Stage)


@dataclass(frozen=True)
class Acts:
    """Read the request, write octets, then close or stay. TOKEN stands for the stage's yes."""

    octets: bytes
    stay: bool = False

    def of(self, token: bytes) -> Act:
        octets = self.octets
        if TOKEN in octets:  # the records are as long as with the longer token
            octets = octets.replace(TOKEN, token.ljust(len(TOKEN)))

        async def act(line: Line) -> None:
            await line.request()
            await line.write(octets)
            if self.stay:
                await trio.sleep_forever()

        return act


TOKEN: Final = b"<TOKEN>"
YES: Final = stdout(HEAD + TOKEN)


async def close_at_once(line: Line) -> None:
    pass


async def never_read(line: Line) -> None:
    await trio.sleep_forever()


async def answer_unread_and_close(line: Line) -> None:
    await line.write(stdout(HEAD + b"SAVED") + end())


async def pass_unread_and_close(line: Line) -> None:
    await line.write(stdout(HEAD + b"PASSED") + end())


async def answer_unread_and_stay(line: Line) -> None:
    await line.write(stdout(HEAD + b"SAVED") + end())
    await trio.sleep_forever()


async def answer_after_params_and_read_on(line: Line) -> None:
    await line.begun()
    await line.write(stdout(HEAD + b"SAVED") + end())
    await line.body()


async def refuse_half_read_and_close(line: Line) -> None:
    await line.begun()


async def endless_output(line: Line) -> None:
    await line.request()
    await line.write(stdout(HEAD))
    while True:
        await line.write(stdout(b"SAVED\r\n" * 1000))
        await trio.sleep(0.001)


async def trickling_output(line: Line) -> None:
    await line.request()
    await line.write(stdout(HEAD))
    while True:
        await line.write(stdout(b"S"))
        await trio.sleep(0.5)


async def endless_head(line: Line) -> None:
    await line.request()
    while True:
        await line.write(stdout(b"X-Powered-By: nobody\r\n" * 100))
        await trio.sleep(0.001)


async def endless_stderr(line: Line) -> None:
    await line.request()
    await line.write(stdout(HEAD + b"SAVED"))
    while True:
        await line.write(stderr(b"PHP message: PHP Notice: again; " * 1000))
        await trio.sleep(0.1)


async def endless_strange_records(line: Line) -> None:
    await line.request()
    while True:
        await line.write(stdout(b"SAVED", request_id=2))
        await trio.sleep(0.1)


async def garbage_octet_by_octet(line: Line) -> None:
    await line.request()
    for octet in octet_by_octet(HEAD + b"thank you"):
        await line.write(stdout(octet))
    await line.write(end())


def _notices(count: int) -> bytes:
    return stderr(b"PHP message: PHP Notice:  Undefined variable $x in /srv/mail/save.php on line 7; " * count)


FAULTS: Final = [
    Fault("connection-refused", refuse, Ends.GIVE_UP),
    Fault("accepts-and-never-reads", never_read, Ends.DEADLINE),
    Fault("reads-and-never-answers", Acts(b"", stay=True), Ends.DEADLINE),
    Fault("closes-unread", close_at_once, Ends.GIVE_UP),
    Fault("closes-within-the-request", refuse_half_read_and_close, Ends.GIVE_UP, mail=BIG),
    Fault("closes-before-the-head", Acts(b"")),
    Fault("closes-within-the-head", Acts(stdout(HEAD[:9]))),
    Fault("closes-after-the-head", Acts(stdout(HEAD))),
    Fault("closes-after-a-yes-without-END_REQUEST", Acts(YES)),
    Fault("closes-after-a-yes-and-the-end-of-STDOUT", Acts(YES + encode_record(RecordType.STDOUT, 1))),
    Fault("stays-after-a-yes-without-END_REQUEST", Acts(YES, stay=True), Ends.DEADLINE),
    Fault("half-a-STDOUT-record", Acts(YES[:-3])),
    Fault("half-an-END_REQUEST-record", Acts(YES + end()[:-1])),
    Fault("half-a-record-header", Acts(YES + end()[:5])),
    Fault("half-a-record-and-stays", Acts(YES + end()[:-1], stay=True), Ends.DEADLINE),
    Fault("END_REQUEST-too-short", Acts(YES + encode_record(RecordType.END_REQUEST, 1, b"\0\0\0\0"), stay=True)),
    Fault("wrong-version-of-STDOUT", Acts(b"\2" + YES[1:] + end(), stay=True)),
    Fault("wrong-version-of-END_REQUEST", Acts(YES + b"\0" + end()[1:], stay=True)),
    Fault("not-FastCGI", Acts(b"HTTP/1.1 200 OK\r\n\r\n<TOKEN>", stay=True)),
    Fault("wrong-request-id", Acts(stdout(HEAD + TOKEN, 2) + end(request_id=2))),
    Fault("wrong-request-id-and-stays", Acts(stdout(HEAD + TOKEN, 2) + end(request_id=2), stay=True), Ends.DEADLINE),
    Fault("wrong-request-id-of-END_REQUEST", Acts(YES + end(request_id=2))),
    Fault("wrong-request-id-of-STDOUT", Acts(stdout(HEAD + TOKEN, 2) + end())),
    Fault("yes-under-the-id-of-management", Acts(encode_record(RecordType.STDOUT, 0, HEAD + TOKEN) + end())),
    Fault("output-after-the-end-of-STDOUT", Acts(encode_record(RecordType.STDOUT, 1) + YES + end())),
    Fault("OVERLOADED", Acts(end(ProtocolStatus.OVERLOADED), stay=True), Ends.GIVE_UP),
    Fault("CANT_MPX_CONN", Acts(end(ProtocolStatus.CANT_MPX_CONN), stay=True), Ends.GIVE_UP),
    Fault("UNKNOWN_ROLE", Acts(end(ProtocolStatus.UNKNOWN_ROLE), stay=True), Ends.GIVE_UP),
    Fault("yes-and-OVERLOADED", Acts(YES + end(ProtocolStatus.OVERLOADED), stay=True)),
    Fault("yes-and-CANT_MPX_CONN", Acts(YES + end(ProtocolStatus.CANT_MPX_CONN), stay=True)),
    Fault("yes-and-UNKNOWN_ROLE", Acts(YES + end(ProtocolStatus.UNKNOWN_ROLE), stay=True)),
    Fault("yes-and-a-protocolStatus-that-does-not-exist", Acts(YES + end(4), stay=True)),
    Fault("status-500", Acts(stdout(b"Status: 500 Internal Server Error\r\n\r\n") + end())),
    Fault("status-500-and-a-yes", Acts(stdout(b"Status: 500\r\n\r\n" + TOKEN) + end())),
    Fault("status-404-and-a-yes", Acts(stdout(b"Status: 404\r\n\r\n" + TOKEN) + end())),
    Fault("status-404-and-a-refusal", Acts(stdout(b"Status: 404\r\n\r\n550 5.1.1 no") + end())),
    Fault("status-199-and-a-yes", Acts(stdout(b"Status: 199\r\n\r\n" + TOKEN) + end())),
    Fault("status-300-and-a-yes", Acts(stdout(b"Status: 300\r\n\r\n" + TOKEN) + end())),
    Fault("redirect-and-a-yes", Acts(stdout(b"Location: /login\r\n\r\n" + TOKEN) + end())),
    Fault("two-statuses", Acts(stdout(b"Status: 200\r\nStatus: 500\r\n\r\n" + TOKEN) + end())),
    Fault("status-that-is-none", Acts(stdout(b"Status: fine\r\n\r\n" + TOKEN) + end())),
    Fault("head-that-is-none", Acts(stdout(b"<html>\r\n\r\n" + TOKEN) + end())),
    Fault("head-without-end", Acts(stdout(b"Content-type: text/html\r\n" + TOKEN) + end())),
    Fault("yes-without-a-head", Acts(stdout(TOKEN) + end())),
    Fault("no-output-at-all", Acts(end())),
    Fault("empty-output", Acts(stdout(HEAD) + end())),
    Fault("blank-output", Acts(stdout(HEAD + b" \r\n\t\n") + end())),
    Fault("byte-order-mark-only", Acts(stdout(HEAD + "\ufeff".encode()) + end())),
    Fault("STDERR-only", Acts(stderr(b"Primary script unknown") + end())),
    Fault("yes-on-STDERR", Acts(stderr(HEAD + TOKEN) + end())),
    Fault("endless-output", endless_output),
    Fault("trickling-output", trickling_output, Ends.DEADLINE),
    Fault("endless-head", endless_head),
    Fault("endless-STDERR-after-a-yes", endless_stderr, Ends.DEADLINE),
    Fault("endless-records-of-nobody", endless_strange_records, Ends.DEADLINE),
    Fault("octets-of-no-meaning", garbage_octet_by_octet, kind=Kind.UNEXPECTED, stages=(Stage.SAVE,)),
    Fault("SAVED-before-the-request-was-read", answer_unread_and_close, stages=(Stage.SAVE,)),
    Fault("PASSED-before-the-request-was-read", pass_unread_and_close, stages=(Stage.VALIDATE,)),
    Fault("SAVED-and-never-reads", answer_unread_and_stay, Ends.DEADLINE),
    Fault("SAVED-before-the-body", answer_after_params_and_read_on, mail=BIG, stages=(Stage.SAVE,)),
    Fault("yes-and-more-lines", Acts(stdout(HEAD + TOKEN + b"\r\nand so on") + end()), kind=Kind.UNEXPECTED),
    Fault("two-yes", Acts(stdout(HEAD + TOKEN + b"\n" + TOKEN) + end()), kind=Kind.UNEXPECTED),
    Fault("yes-and-a-refusal", Acts(stdout(HEAD + TOKEN + b"\n550 no") + end()), kind=Kind.UNEXPECTED),
    Fault("refusal-and-a-yes", Acts(stdout(HEAD + b"550 5.7.1 no\n" + TOKEN) + end())),
    Fault("refusals-of-two-minds", Acts(stdout(HEAD + b"550-no\n450 later") + end())),
    Fault(
        "yes-and-a-fatal-error",
        Acts(
            stdout(HEAD + TOKEN + b"<br />\n<b>Fatal error</b>:  Uncaught Error in /s.php on line <b>2</b><br />")
            + end()
        ),
    ),
    Fault(
        "yes-a-line-and-a-fatal-error",
        Acts(stdout(HEAD + TOKEN + b"\nPHP Fatal error:  Allowed memory size exhausted in /s.php on line 2") + end()),
    ),
    Fault("warning-page", Acts(stdout(HEAD + b"\nWarning: fopen(): Failed in /s.php on line 2\n") + end())),
    Fault(
        "warning-and-a-yes", Acts(stdout(HEAD + b"\nWarning: fopen(): Failed in /s.php on line 2\n" + TOKEN) + end())
    ),
    Fault(
        "post-too-big",
        Acts(
            stderr(b"PHP Warning:  POST Content-Length of 9 bytes exceeds the limit of 8 bytes in Unknown on line 0")
            + YES
            + end()
        ),
    ),
    Fault("too-many-fields", Acts(stderr(b"PHP Warning:  Unknown: Input variables exceeded 1000.") + YES + end())),
    Fault("too-many-parts", Acts(stderr(b"PHP Warning: Multipart body parts limit exceeded 10.") + YES + end())),
    Fault("died-after-a-yes", Acts(YES + stderr(b"PHP message: PHP Fatal error:  Uncaught Error") + end())),
    Fault("died-after-a-yes-and-many-notices", Acts(YES + _notices(2000) + stderr(b"PHP Fatal error:  x") + end())),
    Fault(
        "died-after-a-yes-amid-notices",
        Acts(YES + _notices(2000) + stderr(b"PHP Fatal error:  x") + _notices(2000) + end()),
    ),
    Fault("died-after-a-yes-then-notices", Acts(YES + stderr(b"PHP Fatal error:  x") + _notices(2000) + end())),
]
CASES: Final = [
    pytest.param(fault, stage, id=f"{fault.id}-{stage.name.lower()}") for fault in FAULTS for stage in fault.stages
]


def _bound(fault: Fault, stage: Stage) -> float:
    return {Ends.AT_ONCE: MOMENT, Ends.GIVE_UP: GIVE_UP_SECONDS, Ends.DEADLINE: stage.seconds}[fault.ends]


async def _meet(client: Dialogue, stage: Stage, fault: Fault, responder: ScriptedResponder) -> tuple[bytes, float]:
    """Bring a session to where the fault is met; the reply there, and how long it took."""
    act = fault.act.of(stage.token) if isinstance(fault.act, Acts) else fault.act
    if stage is Stage.VALIDATE:
        assert (await client.ask(b"MAIL FROM:<a@client.example>")).startswith(b"250 ")
        question = b"RCPT TO:<b@example.com>"
    else:
        await client.begin()
        question = fault.mail + b"."
    responder.act = act
    seconds = elapsed()
    reply = await client.ask(question)
    responder.act = None
    return reply, seconds()


@pytest.mark.parametrize("unexpected", ["tempfail", "reject"])
@pytest.mark.parametrize(("fault", "stage"), CASES)
async def test_a_fault_is_451_on_time_and_the_session_goes_on(
    fault: Fault, stage: Stage, unexpected: str, nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    responder = ScriptedResponder(nursery)
    house = House(nursery, journal, TOML.format(unexpected=unexpected), connect=responder.connect)
    client = await house.guest()
    reply, seconds = await _meet(client, stage, fault, responder)
    rejects = unexpected == "reject" and fault.kind is Kind.UNEXPECTED and stage is Stage.SAVE
    assert reply == (REJECTED if rejects else TEMPFAIL)
    assert seconds <= _bound(fault, stage) + 0.001
    if stage is Stage.VALIDATE:
        await client.reset()
    assert (await client.mail()).startswith(STORED)
    assert house.room.used_octets == 0
    assert responder.requests[-1].fields["body"].endswith(MAIL.decode().replace("\r\n", "\n"))


@dataclass(frozen=True)
class Good:
    """An odd way to say yes that is yes."""

    id: str
    octets: list[bytes]
    reason: str


GOOD: Final = [
    Good("whole", [stdout(HEAD + b"SAVED") + end()], "the usual"),
    Good("one-octet-records", [*map(stdout, octet_by_octet(HEAD + b"SAVED")), end()], "records mean nothing"),
    Good("one-octet-writes", list(octet_by_octet(stdout(HEAD + b"SAVED") + end())), "nor do packets"),
    Good("words-follow", [stdout(HEAD + b"SAVED in /var/mail") + end()], "design.md, 7"),
    Good("blanks-around", [stdout(HEAD + b"\xef\xbb\xbf\n SAVED \r\n") + end()], "stripped of white space and a mark"),
    Good("status-204", [stdout(b"Status: 204\r\n\r\nSAVED") + end()], "2xx"),
    Good("empty-head", [stdout(b"\r\nSAVED") + end()], "a head may be empty"),
    Good("appStatus", [stdout(HEAD + b"SAVED") + end(app_status=255)], "logged, never judged"),
    Good("notices", [_notices(500), stdout(HEAD + b"SAVED"), _notices(500), end()], "STDERR is for the log"),
    Good("strange-records", [stdout(b"550 no", 2), b"\1\x63\0\1\0\1\0\0?", stdout(HEAD + b"SAVED"), end()], "skipped"),
    Good("padding", [encode_record(RecordType.STDOUT, 1, HEAD + b"SAVED", padding=255), end()], "FastCGI 1.0, 3.3"),
    Good("two-END_REQUESTs", [stdout(HEAD + b"SAVED") + end() + end(ProtocolStatus.OVERLOADED)], "the first counts"),
]


@pytest.mark.parametrize("good", GOOD, ids=attrgetter("id"))
async def test_a_proper_yes_is_250_however_it_is_cut(
    good: Good, nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    async def act(line: Line) -> None:
        await line.request()
        for octets in good.octets:
            await line.write(octets)

    house = House(nursery, journal, connect=ScriptedResponder(nursery, act).connect)
    client = await house.guest()
    assert await client.mail() == b"250 2.0.0 OK: queued as q1\r\n", good.reason


async def test_the_log_says_why(nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal) -> None:
    responder = ScriptedResponder(nursery)
    house = House(nursery, journal, TOML.format(unexpected="tempfail"), connect=responder.connect)
    client = await house.guest()
    for fault in FAULTS:
        if Stage.SAVE in fault.stages:
            await _meet(client, Stage.SAVE, fault, responder)
    entries = journal.entries("mail")
    assert len(entries) == sum(Stage.SAVE in fault.stages for fault in FAULTS)
    assert {(entry["level"], entry["verdict"]) for entry in entries} == {("warning", "failed")}
    reasons = {str(entry["reason"]) for entry in entries}
    assert "" not in reasons
    for reason in (
        "UpstreamUnavailable: ",
        "UpstreamTimeout: ",
        "UpstreamBroken: ",
        "HTTP status 500",
        "PHP printed: ",
    ):
        assert any(reason in one for one in reasons), reason


async def test_the_connection_is_had_within_the_retry(
    nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    responder = ScriptedResponder(nursery, refuse)
    house = House(nursery, journal, connect=responder.connect)
    client = await house.guest()
    await client.begin()
    await client.send(MAIL + b".\r\n")
    await trio.sleep(1.9)
    responder.act = None
    assert (await client.reply()).startswith(STORED)
    assert len(responder.requests) == 1


async def test_a_mail_that_is_not_complete_is_not_saved(
    nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    responder = ScriptedResponder(nursery)
    house = House(nursery, journal, connect=responder.connect)
    for cut in range(len(MAIL + b".\r\n")):
        client = await house.guest()
        await client.begin()
        await client.send((MAIL + b".\r\n")[:cut])
        await client.stream.send_eof()
        assert await client.rest() == b""
    assert responder.connections == 0
    assert house.room.used_octets == 0


async def test_a_client_that_only_stopped_sending_gets_its_verdict(
    nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    house = House(nursery, journal, connect=ScriptedResponder(nursery).connect)
    client = await house.guest()
    await client.begin()
    await client.send(MAIL + b".\r\n")
    await client.stream.send_eof()
    assert await client.rest() == b"250 2.0.0 OK: queued as q1\r\n"
