"""Chains of processors: their order, what their answers come to, and that none can do harm. Time is Trio's clock."""

import sys
import zlib
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path
from typing import Final

import pytest
import trio
from trio.testing import MockClock

from tests.support import MAIL, TEMPFAIL, Act, Dialogue, House, Journal, Line, ScriptedResponder, refuse, settings
from trio_fcgimail.config import ChainSettings, NamedProcessor
from trio_fcgimail.config import Processor as BuiltIn
from trio_fcgimail.mail import Envelope
from trio_fcgimail.server import Server
from trio_fcgimail.server.processors import (
    COMPRESSED,
    HEADER,
    ChainError,
    Context,
    Discarded,
    EachRecipient,
    Failed,
    GoOn,
    Mail,
    NoteKey,
    Processor,
    ProcessorSource,
    RecipientAnswer,
    Refused,
    SaveAnswer,
    Stored,
)
from trio_fcgimail.smtp import EnhancedCode, Mailbox, Reply, catalogue

pytestmark = pytest.mark.trio

QUEUED: Final = b"250 2.0.0 OK: queued as q1\r\n"
BUSY: Final = Reply(450, EnhancedCode(4, 2, 0), ("Not now",))
NO: Final = Reply(554, EnhancedCode(5, 6, 0), ("No such letters",))
SAVE_SECONDS: Final = 30.0


@pytest.fixture
def responder(nursery: trio.Nursery) -> ScriptedResponder:
    return ScriptedResponder(nursery)


def saying(output: bytes) -> Act:
    async def act(line: Line) -> None:
        await line.request()
        await line.answer(output)

    return act


def chain(*names: str, validate: str = "", more: str = "") -> str:
    listed = ", ".join(f'"{name}"' for name in names)
    return f"[chain]\nsave = [{listed}]\nvalidate = [{validate}]\n{more}"


@asynccontextmanager
async def guest(house: House, greeting: bytes = b"EHLO") -> AsyncIterator[Dialogue]:
    async with house.gateway.chain.ready():
        client, _ = house.visit()
        await client.reply()
        assert (await client.ask(greeting + b" client.example")).startswith(b"250-")
        yield client
        await client.close()


class Answering(Processor):
    """Answers what it is told, and keeps what it was given."""

    def __init__(self, answer: SaveAnswer) -> None:
        self.answer = answer
        self.recipients: list[list[str]] = []
        self.contents: list[bytes] = []

    async def save(self, mail: Mail) -> SaveAnswer:
        self.recipients.append([str(recipient) for recipient in mail.envelope.recipients])
        self.contents.append(b"".join([piece async for piece in mail.pieces()]))
        assert len(self.contents[-1]) == mail.size
        return self.answer


class Raising(Processor):
    """Has a bug in every method that a client can reach."""

    async def validate(self, envelope: Envelope, recipient: Mailbox) -> RecipientAnswer:
        raise RuntimeError(f"bug at {recipient}")

    async def save(self, mail: Mail) -> SaveAnswer:
        async with trio.open_nursery():
            raise RuntimeError(f"bug in {mail.envelope.queue_id}")


class Hanging(Processor):
    """Never answers."""

    async def validate(self, envelope: Envelope, recipient: Mailbox) -> RecipientAnswer:
        await trio.sleep_forever()

    async def save(self, mail: Mail) -> SaveAnswer:
        await trio.sleep_forever()


# What answers come to


@dataclass(frozen=True)
class Row:
    """Answers in order, and the reply to the mail."""

    id: str
    answers: tuple[SaveAnswer, ...]
    reply: bytes
    asked: int


ROWS: Final = [
    Row("stored", (Stored(),), QUEUED, 1),
    Row("stored-and-named", (Stored("abc"),), b"250 2.0.0 OK: queued as abc\r\n", 1),
    Row("a-later-store-has-no-name", (Stored("abc"), Stored()), b"250 2.0.0 OK: queued as abc\r\n", 2),
    Row("the-last-name-counts", (Stored("abc"), Stored("d.e")), b"250 2.0.0 OK: queued as d.e\r\n", 2),
    Row("goes-on-before-and-behind", (GoOn(), Stored(), GoOn()), QUEUED, 3),
    Row("stored-by-nobody", (GoOn(), GoOn()), TEMPFAIL, 2),
    Row("discarded", (GoOn(), Discarded(), Stored()), QUEUED, 2),
    Row("discarded-behind-a-store", (Stored("abc"), Discarded()), b"250 2.0.0 OK: queued as abc\r\n", 2),
    Row("refused", (Refused(NO), Stored()), b"554 5.6.0 No such letters\r\n", 1),
    Row("refused-for-now", (Refused(BUSY), Stored()), b"450 4.2.0 Not now\r\n", 1),
    Row("refused-behind-a-store", (Stored(), Refused(NO)), TEMPFAIL, 2),
    Row("failed", (Failed("x"), Stored()), TEMPFAIL, 1),
    Row("failed-full", (Failed("x", catalogue.INSUFFICIENT_STORAGE),), catalogue.INSUFFICIENT_STORAGE.render(), 1),
    Row("failed-behind-a-store", (Stored(), Failed("x"), Stored()), TEMPFAIL, 2),
    Row("each-the-same", (EachRecipient((Stored("a"), Stored("a"))),), b"250 2.0.0 OK: queued as a\r\n", 1),
    Row("each-goes-on", (EachRecipient((GoOn(), GoOn())), Stored()), QUEUED, 2),
    Row("each-with-one-failed", (EachRecipient((Stored(), Failed("x"))),), TEMPFAIL, 1),
    Row("each-with-one-refused", (EachRecipient((Stored(), Refused(NO))),), TEMPFAIL, 1),
    Row("each-refused", (EachRecipient((GoOn(), Refused(NO))),), b"554 5.6.0 No such letters\r\n", 1),
    Row("each-with-one-left-out", (EachRecipient((Stored(), GoOn())), Stored()), TEMPFAIL, 1),
    Row("each-with-one-discarded", (EachRecipient((Stored(), Discarded())),), QUEUED, 1),
    Row("too-few-answers", (EachRecipient((Stored(),)),), TEMPFAIL, 1),
]


@pytest.mark.parametrize("row", ROWS, ids=attrgetter("id"))
async def test_answers_come_to_one_reply(
    row: Row, nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    processors = {f"p{number}": Answering(answer) for number, answer in enumerate(row.answers)}
    house = House(nursery, journal, chain(*processors), processors=sources(processors))
    async with guest(house) as client:
        await client.begin(b"a@example.com", b"b@example.com")
        assert await client.ask(MAIL + b".") == row.reply
    assert [len(one.contents) for one in processors.values()] == [1] * row.asked + [0] * (len(processors) - row.asked)


def sources(processors: Mapping[str, Processor]) -> dict[str, ProcessorSource]:
    def giving(processor: Processor) -> ProcessorSource:
        return lambda: processor

    return {name: giving(processor) for name, processor in processors.items()}


LMTP: Final = '[[listeners]]\naddress = "127.0.0.1:0"\nprotocol = "lmtp"\n'


async def test_in_lmtp_each_recipient_has_its_own_way(
    nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    first = Answering(EachRecipient((Refused(NO), Stored("x"), GoOn(), Failed("y"))))
    second = Answering(EachRecipient((Failed("z"), Stored())))
    house = House(nursery, journal, chain("p", "q") + LMTP, processors=sources({"p": first, "q": second}))
    async with guest(house, b"LHLO") as client:
        await client.begin(*(b"%c@example.com" % name for name in b"abcd"))
        await client.send(MAIL + b".\r\n")
        replies = [await client.reply() for _ in range(4)]
    assert replies == [b"554 5.6.0 No such letters\r\n", TEMPFAIL, QUEUED, TEMPFAIL]
    assert second.recipients == [["b@example.com", "c@example.com"]]
    assert [entry["reason"] for entry in journal.entries("mail stored in part only")] == ["z"]
    assert [entry["rcpts"] for entry in journal.entries("mail")] == [f"{name}@example.com" for name in "abcd"]


async def test_in_lmtp_lines_of_a_script_are_for_the_next_store(
    responder: ScriptedResponder, nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    responder.act = saying(b"SAVED\n550 no\nSAVED")
    store = Answering(Stored())
    house = House(
        nursery,
        journal,
        chain("FastCGI", "store") + LMTP,
        connect=responder.connect,
        processors=sources({"store": store}),
    )
    async with guest(house, b"LHLO") as client:
        await client.begin(*(b"%c@example.com" % name for name in b"abc"))
        await client.send(MAIL + b".\r\n")
        assert [(await client.reply())[:3] for _ in range(3)] == [b"250", b"550", b"250"]
    assert store.recipients == [["a@example.com", "c@example.com"]]


# Faults


@dataclass(frozen=True)
class Fault:
    """A processor that does not do what it should, and what the log says of it."""

    id: str
    processor: ProcessorSource
    event: str = "processor failed"
    seconds: float = 0.0


async def _wrong(mail: Mail) -> SaveAnswer | None:
    answers: Mapping[str, SaveAnswer] = {}
    return answers[mail.digest]


class Strange(Answering):
    """Answers with what is none, as code without types may."""

    def __init__(self) -> None:
        super().__init__(GoOn())
        object.__setattr__(self, "answer", "SAVED")


FAULTS: Final = [
    Fault("raises", Raising),
    Fault("function-raises", _wrong),
    Fault("hangs", Hanging, event="mail", seconds=SAVE_SECONDS),
    Fault("strange", Strange, event="processor gave no answer that is one"),
]


@pytest.mark.parametrize("position", ["before", "behind"])
@pytest.mark.parametrize("fault", FAULTS, ids=attrgetter("id"))
async def test_fault_is_a_temporary_failure_on_time(
    fault: Fault, position: str, nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    """Before a store nothing is stored, behind it the sender comes again; the next mail finds all as it was."""
    store = Answering(Stored())
    names = ("bad", "store") if position == "before" else ("store", "bad")
    processors = {**sources({"store": store}), "bad": fault.processor}
    house = House(nursery, journal, chain(*names), processors=processors)
    async with guest(house) as client:
        for _ in range(2):
            began = trio.current_time()
            assert await client.mail() == TEMPFAIL
            assert trio.current_time() - began == pytest.approx(fault.seconds, abs=0.5)
        assert await client.ask(b"NOOP") == b"250 2.0.0 OK\r\n"
    assert len(store.contents) == (0 if position == "before" else 2)
    assert len(journal.entries(fault.event)) == 2
    assert len(journal.entries("mail stored in part only")) == (0 if position == "before" else 2)


async def test_exception_is_logged_with_its_traceback(
    nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    async with guest(House(nursery, journal, chain("bad"), processors={"bad": Raising})) as client:
        await client.mail()
    (entry,) = journal.entries("processor failed")
    assert (entry["processor"], entry["queue_id"], entry["problem"]) == ("bad", "q1", "RuntimeError: bug in q1")
    assert "in save" in str(entry["traceback"])
    (mail,) = journal.entries("mail")
    assert mail["verdict"] == "failed"


@pytest.mark.parametrize("fault", [refuse, saying(b"554 5.6.0 no"), saying(b"")], ids=["down", "refused", "empty"])
async def test_script_that_fails_behind_a_store_is_a_temporary_failure(
    fault: Act, responder: ScriptedResponder, nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    responder.act = fault
    store = Answering(Stored())
    house = House(
        nursery, journal, chain("store", "FastCGI"), connect=responder.connect, processors=sources({"store": store})
    )
    async with guest(house) as client:
        assert await client.mail() == TEMPFAIL
    assert len(store.contents) == 1


async def test_script_that_waits_for_a_connection_has_the_time_of_both(
    responder: ScriptedResponder, nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    """save_seconds begins anew for none: the whole chain has wait_seconds and save_seconds."""
    house = House(nursery, journal, chain("FastCGI", "slow"), connect=responder.connect, processors={"slow": Hanging})
    async with guest(house) as client:
        began = trio.current_time()
        assert await client.mail() == TEMPFAIL
        assert trio.current_time() - began == pytest.approx(20 + SAVE_SECONDS, abs=0.5)
    (entry,) = journal.entries("mail")
    assert entry["reason"] == "slow has not answered in time"


# Recipients


@dataclass(frozen=True)
class Check:
    """What is asked about a recipient, and the reply to RCPT."""

    id: str
    answer: RecipientAnswer
    reply: bytes


class Checking(Processor):
    """Says of every recipient the same."""

    def __init__(self, answer: RecipientAnswer) -> None:
        self.answer = answer
        self.asked: list[str] = []

    async def validate(self, envelope: Envelope, recipient: Mailbox) -> RecipientAnswer:
        self.asked.append(str(recipient))
        return self.answer


CHECKS: Final = [
    Check("taken", GoOn(), b"250 2.1.5 Recipient OK\r\n"),
    Check("unknown", Refused(catalogue.NO_SUCH_USER), b"550 5.1.1 No such user\r\n"),
    Check("busy", Refused(BUSY), b"450 4.2.0 Not now\r\n"),
    Check("failed", Failed("x"), TEMPFAIL),
]


@pytest.mark.parametrize("check", CHECKS, ids=attrgetter("id"))
async def test_recipient_goes_through_the_validate_chain(
    check: Check, nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    first, second = Checking(GoOn()), Checking(check.answer)
    toml = chain("store", validate='"First", "second"')
    processors = sources({"first": first, "second": second, "store": Answering(Stored())})
    async with guest(House(nursery, journal, toml, processors=processors)) as client:
        await client.ask(b"MAIL FROM:<a@client.example>")
        assert await client.ask(b"RCPT TO:<b@example.com>") == check.reply
        assert await client.ask(b"RCPT TO:<postmaster>") == b"250 2.1.5 Recipient OK\r\n"
    assert first.asked == second.asked == ["b@example.com"]
    assert len(journal.entries("recipient")) == 1


@pytest.mark.parametrize(("processor", "seconds"), [(Raising, 0.0), (Hanging, 5.0)], ids=["raises", "hangs"])
async def test_fault_at_a_recipient_is_temporary(
    processor: ProcessorSource, seconds: float, nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    processors = {**sources({"store": Answering(Stored())}), "bad": processor}
    house = House(nursery, journal, chain("store", validate='"bad"'), processors=processors)
    async with guest(house) as client:
        await client.ask(b"MAIL FROM:<a@client.example>")
        began = trio.current_time()
        assert await client.ask(b"RCPT TO:<b@example.com>") == TEMPFAIL
        assert trio.current_time() - began == pytest.approx(seconds)


# The built-in ones


GO_GUERRILLA: Final = """
[header]
primary_mail_host = "mail.example"
[debugger]
log_received_mails = true
"""


async def test_header_puts_the_same_id_everywhere_and_the_body_begins_with_it(
    responder: ScriptedResponder, nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    toml = chain(
        "headersparser", "HEADER", "Hasher", "Debugger", "FastCGI", more="trace_header = false\n" + GO_GUERRILLA
    )
    async with guest(House(nursery, journal, toml, connect=responder.connect)) as client:
        assert await client.mail(b"Subject: =?utf-8?q?h=C3=A9?=\r\n\r\nx\r\n") == QUEUED
    (save,) = responder.requests
    assert save.fields["body"] == (
        "Delivered-To: b@mail.example\nReceived: from client.example ([192.0.2.1])\n"
        "\tby mx.example.com with ESMTP id q1;\n\tThu, 29 Feb 2024 12:00:00 +0000\n"
        "Subject: =?utf-8?q?h=C3=A9?=\n\nx\n"
    )
    assert save.fields["size"] == str(len(save.fields["body"]))
    assert save.fields["queue_id"] == "q1"
    (entry,) = journal.entries("mail received")
    assert (entry["mail_from"], entry["rcpts"]) == ("a@client.example", "b@example.com")
    assert entry["header"] == "Subject: hé"


async def test_header_tells_no_recipient_of_another(
    responder: ScriptedResponder, nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    toml = chain("Header", "FastCGI", more="trace_header = false\n")
    async with guest(House(nursery, journal, toml, connect=responder.connect)) as client:
        await client.begin(b"b@example.com", b"c@example.com")
        assert await client.ask(MAIL + b".") == QUEUED
    body = responder.requests[0].fields["body"]
    assert body.startswith("Received: from client.example")
    assert "@example.com" not in body


async def test_without_header_and_trace_the_body_begins_with_the_senders_own(
    responder: ScriptedResponder, nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    toml = chain("HeadersParser", "FastCGI", more="trace_header = false\n")
    async with guest(House(nursery, journal, toml, connect=responder.connect)) as client:
        assert await client.mail() == QUEUED
    assert responder.requests[0].fields["body"] == MAIL.decode().replace("\r\n", "\n")


@pytest.mark.parametrize("kind", ["form", "multipart", "raw"])
async def test_digest_does_not_depend_on_the_chain(
    kind: str, responder: ScriptedResponder, nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    seen: list[tuple[str, bytes]] = []

    async def look(mail: Mail) -> None:
        seen.append((mail.digest, b"".join([piece async for piece in mail.pieces()])))

    toml = chain("Header", "Compressor", "look", "FastCGI", more=f'[scripts]\nbody = "{kind}"\n')
    house = House(nursery, journal, toml, connect=responder.connect, processors={"look": look})
    async with guest(house) as client:
        await client.mail()
    (digest, whole), body = seen[0], responder.requests[0].body
    assert digest.encode() in body or digest in responder.requests[0].params["QUERY_STRING"]
    assert whole.startswith(b"Delivered-To: b@mx.example.com\r\nReceived: ")
    assert whole.endswith(MAIL)
    if kind != "form":
        assert whole in body


async def test_compressor_drains_nothing(responder: ScriptedResponder, nursery: trio.Nursery, journal: Journal) -> None:
    """By the real clock, as the other one does not know of threads."""
    packed: list[bytes] = []

    async def keep(mail: Mail) -> None:
        compressed = mail.notes.get(COMPRESSED)
        assert compressed is not None
        packed.extend([b"".join([piece async for piece in compressed.pieces()]) for _ in range(2)])

    toml = chain("Compressor", "keep", "FastCGI", more="trace_header = false\n")
    house = House(nursery, journal, toml, connect=responder.connect, processors={"keep": keep})
    async with guest(house) as client:
        assert await client.mail() == QUEUED
    assert [zlib.decompress(octets) for octets in packed] == [MAIL, MAIL]
    assert responder.requests[0].fields["body"] == MAIL.decode().replace("\r\n", "\n")


async def test_hashes_and_header_are_for_later_processors(
    nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    hashes: list[tuple[str, ...]] = []
    key: NoteKey[list[str]] = NoteKey("mine")

    async def take(mail: Mail) -> Stored:
        hashes.append(mail.hashes)
        fields = mail.notes.get(HEADER)
        assert fields is not None
        assert [(field.name, field.text) for field in fields] == [("Subject", "hello")]
        assert mail.notes.get(key) is None
        mail.notes.put(key, ["x"])
        assert mail.notes.get(key) == ["x"]
        return Stored()

    house = House(nursery, journal, chain("hasher", "headersparser", "take"), processors={"Take": take})
    async with guest(house) as client:
        for _ in range(2):
            await client.begin(b"a@example.com", b"b@example.com")
            assert (await client.ask(MAIL + b".")).startswith(b"250 ")
    assert [len(one) for one in hashes] == [2, 2]
    assert len({digits for one in hashes for digits in one}) == 4
    assert all(len(digits) == 32 for one in hashes for digits in one)


async def test_what_is_no_header_cannot_be_put_in_front(
    nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    async def bend(mail: Mail) -> Stored:
        for header in (b"X: 1", b"X: 1\n", b"\r\n", b"X: 1\r\n\r\n", b" X: 1\r\n", b"no field\r\n", b"X: \r1\r\n", b""):
            with pytest.raises(ValueError, match="header"):
                mail.put_in_front(header)
        mail.put_in_front(b"X-One: 1\r\n")
        mail.put_in_front(b"X-Two: 2\r\n\tfolded\r\n")
        whole = b"".join([piece async for piece in mail.pieces()])
        assert whole.startswith(b"X-Two: 2\r\n\tfolded\r\nX-One: 1\r\nReceived: ")
        return Stored()

    async with guest(House(nursery, journal, chain("bend"), processors={"bend": bend})) as client:
        assert await client.mail() == QUEUED


# The start


async def test_answers_that_would_lie_cannot_be_built() -> None:
    with pytest.raises(ValueError, match="not a reply"):
        Refused(catalogue.OK)
    with pytest.raises(ValueError, match="not a reply"):
        Failed("x", NO)
    with pytest.raises(ValueError, match="identifier"):
        Stored("a b")


async def test_chain_that_stores_nowhere_does_not_start_unless_told_so(
    nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    """Also when the settings were made in code."""
    steps = ChainSettings(save=(BuiltIn.HEADER, BuiltIn.DEBUGGER), validate=())
    with pytest.raises(ChainError, match="stores"):
        Server(replace(settings(), chain=steps), log=journal.log)
    house = House(nursery, journal, chain("Header", "Debugger", more="discard = true\n"))
    async with guest(house) as client:
        assert await client.mail() == QUEUED
    (entry,) = journal.entries("mail")
    assert (entry["verdict"], entry["reason"]) == ("discarded", "chain.discard")


ANY_PORT: Final = settings('[[listeners]]\naddress = "127.0.0.1:0"')
NAMED: Final = replace(ANY_PORT, chain=ChainSettings(save=(NamedProcessor("mine"),), validate=()))


def _bad_factory() -> Processor:
    raise KeyError("no such thing")


@pytest.mark.parametrize(
    ("processors", "problem"),
    [
        pytest.param({}, "there is no processor mine", id="unknown"),
        pytest.param({"mine": _bad_factory}, "cannot make the processor mine: 'no such thing'", id="raises"),
        pytest.param({"mine": dict}, "the processor mine is no async function", id="no-processor"),
    ],
)
async def test_processor_that_is_not_to_be_had_is_told_at_the_start(
    processors: Mapping[str, ProcessorSource], problem: str, journal: Journal
) -> None:
    with pytest.raises(ChainError, match=problem):
        Server(NAMED, log=journal.log, processors=processors)


async def test_processors_are_set_up_in_order_and_torn_down_in_the_opposite_one(
    nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    steps: list[str] = []

    class Noting(Processor):
        def __init__(self, name: str) -> None:
            self._name = name

        async def set_up(self, context: Context) -> None:
            assert context.settings.hostname == "mx.example.com"
            steps.append(f"+{self._name}")

        async def tear_down(self) -> None:
            steps.append(f"-{self._name}")
            if self._name == "b":
                raise OSError("the database is gone")

    house = House(
        nursery,
        journal,
        chain("a", "b", "store", validate='"a"'),
        processors=sources({"a": Noting("a"), "b": Noting("b"), "store": Answering(Stored())}),
    )
    async with guest(house) as client:
        assert await client.mail() == QUEUED
    assert steps == ["+a", "+b", "-b", "-a"]
    assert len(journal.entries("processor cannot be torn down")) == 1


async def test_processor_that_cannot_be_set_up_ends_the_start(autojump_clock: MockClock, journal: Journal) -> None:
    class Unready(Processor):
        async def set_up(self, context: Context) -> None:
            raise ConnectionError("no database")

    server = Server(NAMED, log=journal.log, processors={"mine": Unready})
    with pytest.raises(ChainError, match="the processor mine cannot be set up: ConnectionError: no database"):
        await server.run()
    assert len(journal.entries("processor cannot be set up")) == 1
    assert journal.entries("listening") == []


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package that is installed, with processors."""
    (tmp_path / "their_mail.py").write_text(
        "from trio_fcgimail import Processor, Stored\n\n\nclass Theirs(Processor):\n"
        "    async def save(self, mail):\n        return Stored('theirs')\n\n\n"
        "async def function(mail):\n    return Stored('function')\n"
    )
    info = tmp_path / "their_mail-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-mail\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[trio_fcgimail.processors]\nTheirs = their_mail:Theirs\nfunction = their_mail:function\n"
        "broken = their_mail:nothing\nheader = their_mail:nothing\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("their_mail", None)


@pytest.mark.parametrize(("name", "identifier"), [("theirs", b"theirs"), ("FUNCTION", b"function")])
async def test_processor_of_a_package_is_found_by_its_name(
    name: str, identifier: bytes, package: None, nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    async with guest(House(nursery, journal, chain("Header", name))) as client:
        assert await client.mail() == b"250 2.0.0 OK: queued as " + identifier + b"\r\n"


async def test_what_is_registered_comes_before_packages(
    package: None, nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    house = House(nursery, journal, chain("theirs"), processors=sources({"THEIRS": Answering(Stored("ours"))}))
    async with guest(house) as client:
        assert await client.mail() == b"250 2.0.0 OK: queued as ours\r\n"


async def test_package_that_cannot_be_loaded_is_told_at_the_start(package: None, journal: Journal) -> None:
    broken = replace(ANY_PORT, chain=ChainSettings(save=(NamedProcessor("broken"),), validate=()))
    with pytest.raises(ChainError, match="cannot load the processor broken from their_mail:nothing"):
        Server(broken, log=journal.log)
