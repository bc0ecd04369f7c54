"""LMTP (RFC 2033): a reply for each recipient, from one answer of the save script or from one line for each."""

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Final

import pytest
import trio
from trio.testing import MockClock

from tests.clients import require
from tests.phpfpm import PhpFpm, require_php
from tests.support import (
    MAIL,
    TEMPFAIL,
    Act,
    Dialogue,
    House,
    Journal,
    Line,
    Request,
    ScriptedResponder,
    serving,
    settings,
)
from trio_fcgimail.config import UnixAddress

pytestmark = pytest.mark.trio

LMTP: Final = '[[listeners]]\naddress = "127.0.0.1:0"\nprotocol = "lmtp"\n'
RECIPIENTS: Final = (b"a@example.com", b"b@example.com", b"c@example.com")
QUEUED: Final = b"250 2.0.0 OK: queued as q1\r\n"


@pytest.fixture
def responder(nursery: trio.Nursery) -> ScriptedResponder:
    return ScriptedResponder(nursery)


def saying(output: bytes, asked: list[Request]) -> Act:
    async def act(line: Line) -> None:
        asked.append(await line.request())
        await line.answer(output)

    return act


async def _greeted(house: House) -> Dialogue:
    client, _ = house.visit()
    assert await client.reply() == b"220 mx.example.com LMTP\r\n"
    assert (await client.ask(b"LHLO client.example")).startswith(b"250-mx.example.com\r\n")
    return client


async def _replies(client: Dialogue, recipients: Sequence[bytes] = RECIPIENTS) -> list[bytes]:
    """One mail; as many replies as there are recipients."""
    await client.begin(*recipients)
    await client.send(MAIL + b".\r\n")
    return [await client.reply() for _ in recipients]


@dataclass(frozen=True, slots=True)
class Case:
    """What the script prints, and what three recipients are told."""

    id: str
    output: bytes
    replies: tuple[bytes, bytes, bytes]
    verdicts: tuple[str, ...]


CASES: Final = [
    Case("one-for-all", b"SAVED", (QUEUED,) * 3, ("accepted",)),
    Case(
        "one-for-each",
        b"SAVED id=A\n550 5.2.1 Mailbox disabled\n452 4.2.2 Mailbox full\n",
        (
            b"250 2.0.0 OK: queued as A\r\n",
            b"550 5.2.1 Mailbox disabled\r\n",
            b"452 4.2.2 Mailbox full\r\n",
        ),
        ("accepted", "refused", "refused"),
    ),
    Case("all-saved-each", b"SAVED\nSAVED\nSAVED", (QUEUED,) * 3, ("accepted",)),
    Case("discard-among-them", b"SAVED\nDISCARD\nSAVED", (QUEUED,) * 3, ("accepted", "discarded", "accepted")),
    Case("one-refusal-for-all", b"550 5.7.1 No", (b"550 5.7.1 No\r\n",) * 3, ("refused",)),
    Case(
        "reply-of-three-lines-is-one",
        b"550-5.7.1 No\n550-5.7.1 and\n550 5.7.1 no",
        (b"550-5.7.1 No\r\n550-5.7.1 and\r\n550 5.7.1 no\r\n",) * 3,
        ("refused",),
    ),
    Case("too-few", b"SAVED\nSAVED", (TEMPFAIL,) * 3, ("failed",)),
    Case("too-many", b"SAVED\nSAVED\nSAVED\nSAVED", (TEMPFAIL,) * 3, ("failed",)),
    Case("one-line-is-none", b"SAVED\nwhat?\nSAVED", (TEMPFAIL,) * 3, ("failed",)),
    Case("php-died-in-the-third", b"SAVED\nSAVED\nFatal error: x on line 3", (TEMPFAIL,) * 3, ("failed",)),
    Case("empty", b"", (TEMPFAIL,) * 3, ("failed",)),
]


@pytest.mark.parametrize("case", CASES, ids=attrgetter("id"))
async def test_each_recipient_is_answered(
    case: Case, responder: ScriptedResponder, nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    asked: list[Request] = []
    responder.act = saying(case.output, asked)
    client = await _greeted(House(nursery, journal, LMTP, connect=responder.connect))
    assert await _replies(client) == list(case.replies)
    assert await client.ask(b"NOOP") == b"250 2.0.0 OK\r\n"
    lines = journal.entries("mail")
    assert tuple(line["verdict"] for line in lines) == case.verdicts
    fields = asked[0].fields
    assert (fields["protocol"], fields["with"], fields["rcpt_count"]) == ("lmtp", "LMTP", "3")


async def test_a_failure_is_told_to_each(
    responder: ScriptedResponder, nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    async def hang_up(line: Line) -> None:
        await line.request()

    responder.act = hang_up
    client = await _greeted(House(nursery, journal, LMTP, connect=responder.connect))
    assert await _replies(client) == [TEMPFAIL] * 3


@pytest.mark.parametrize(
    ("limits", "mail", "reply"),
    [
        pytest.param(
            "[spool]\nmemory_octets = 0\ntotal_octets = 10\n",
            MAIL,
            b"452 4.3.1 Insufficient storage; try again later\r\n",
            id="spool-full",
        ),
        pytest.param(
            "[limits]\nmax_received = 1\n", 2 * b"Received: x\r\n" + MAIL, b"554 5.4.6 Too many hops\r\n", id="loop"
        ),
        pytest.param(
            "[limits]\nmessage_octets = 20\n", 30 * b"x" + b"\r\n", b"552 5.3.4 Message too big\r\n", id="size"
        ),
    ],
)
async def test_what_is_refused_unasked_is_told_to_each(
    limits: str,
    mail: bytes,
    reply: bytes,
    responder: ScriptedResponder,
    nursery: trio.Nursery,
    autojump_clock: MockClock,
    journal: Journal,
) -> None:
    client = await _greeted(House(nursery, journal, LMTP + limits, connect=responder.connect))
    await client.begin(*RECIPIENTS)
    await client.send(mail + b".\r\n")
    assert [await client.reply() for _ in RECIPIENTS] == [reply] * 3
    assert not responder.requests
    assert await client.ask(b"NOOP") == b"250 2.0.0 OK\r\n"


async def test_helo_and_ehlo_are_unknown(
    responder: ScriptedResponder, nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    client, _ = House(nursery, journal, LMTP, connect=responder.connect).visit()
    await client.reply()
    for word in (b"EHLO", b"HELO"):
        assert await client.ask(word + b" client.example") == b"500 5.5.1 Command not recognised\r\n"


async def test_swaks_delivers_over_a_unix_socket_to_a_real_php(journal: Journal, tmp_path: Path) -> None:
    """A line for each recipient by a real script, told by a real client."""
    require_php()
    swaks = require("swaks", "swaks")
    with PhpFpm() as php:
        script = php.script(
            "each.php",
            "<?php for ($i = 0; $i < $_POST['rcpt_count']; $i++)"
            " echo str_starts_with($_POST['rcpt_to_' . $i], 'full') ? '452 4.2.2 Full' : 'SAVED id=m' . $i, PHP_EOL;",
        )
        config = settings(f"""
[[listeners]]
address = "unix:{tmp_path}/lmtp.sock"
protocol = "lmtp"
[fastcgi]
upstreams = ["{php.address}"]
[scripts]
save = "{script}"
""")
        async with serving(config, journal) as served:
            address = served.addresses[0]
            assert isinstance(address, UnixAddress)
            command = [swaks, "--protocol", "LMTP", "--socket", address.path, "--from", "a@client.example"]
            done = await trio.run_process(
                [*command, "--to", "one@example.com,full@example.com,two@example.com"],
                capture_stdout=True,
                stderr=subprocess.STDOUT,
                check=False,
            )
    said = done.stdout.decode()
    assert "250 2.0.0 OK: queued as m0" in said
    assert "452 4.2.2 Full" in said
    assert "250 2.0.0 OK: queued as m2" in said
    assert [line["verdict"] for line in journal.entries("mail")] == ["accepted", "refused", "accepted"]
