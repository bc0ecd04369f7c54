"""A mail by BDAT, the parameters of DSN and paths without brackets, from the wire to the script and back."""

from pathlib import Path
from typing import Final

import pytest
import trio
from trio.testing import MockClock

from tests.support import MAIL, Dialogue, House, Journal, ScriptedResponder, elapsed

pytestmark = pytest.mark.trio

STORED: Final = b"250 2.0.0 OK: queued as "
CHUNK_OK: Final = b"250 2.0.0 Chunk received\r\n"
TAKEN: Final = b"250 2.1.5 Recipient OK\r\n"
TOO_BIG: Final = b"552 5.3.4 Message too big\r\n"
TOO_SLOW: Final = b"421 4.4.2 Data comes too slowly; closing\r\n"
TIMED_OUT: Final = b"421 4.4.2 Timed out waiting for you; closing\r\n"
LISTENER: Final = '[[listeners]]\naddress = "127.0.0.1:2525"\n'
LIMITS: Final = "[limits]\nidle_seconds = 17\ndata_seconds = 23\ndata_floor_octets_per_second = 100\n"


@pytest.fixture
def responder(nursery: trio.Nursery) -> ScriptedResponder:
    return ScriptedResponder(nursery)


async def chunk(client: Dialogue, content: bytes, last: bytes = b"") -> bytes:
    """Send a chunk; the reply to it."""
    await client.send(b"BDAT %d%b\r\n%b" % (len(content), last, content))
    return await client.reply()


async def begin(client: Dialogue, mail_parameters: bytes = b"") -> None:
    """Everything before the content; all of it is accepted."""
    assert (await client.ask(b"MAIL FROM:<a@client.example>" + mail_parameters)).startswith(b"250 ")
    assert (await client.ask(b"RCPT TO:<b@example.com>")).startswith(b"250 ")


def body_of(responder: ScriptedResponder) -> bytes:
    """The body of the last mail as the script got it, without our header."""
    _, mark, rest = responder.requests[-1].fields["body"].partition("+0000\n")
    assert mark, "the trace header is missing"
    return rest.encode("latin-1")


async def test_a_mail_in_chunks(
    responder: ScriptedResponder, nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    client = await House(nursery, journal, connect=responder.connect).guest()
    await begin(client)
    assert await chunk(client, b"Subject: hel") == CHUNK_OK
    assert await chunk(client, b"lo\r\n\r\n.\r") == CHUNK_OK
    assert await chunk(client, b"\n..\r\nQUIT\r\nno newline", b" LAST") == STORED + b"q1\r\n"
    assert body_of(responder) == b"Subject: hello\n\n.\n..\nQUIT\nno newline"
    assert responder.requests[0].fields["subject"] == "hello"
    assert (await client.mail()).startswith(STORED)


async def test_pipelined_as_one_group(
    responder: ScriptedResponder, nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    client = await House(nursery, journal, connect=responder.connect).guest()
    await client.send(
        b"MAIL FROM:<a@client.example>\r\nRCPT TO:<b@example.com>\r\nBDAT 6\r\nQUIT\r\nBDAT 6 LAST\r\nQUIT\r\nQUIT\r\n"
    )
    replies = await client.rest()
    assert [line[:3] for line in replies.splitlines()] == [b"250", b"250", b"250", b"250", b"221"]
    assert body_of(responder) == b"QUIT\nQUIT\n"


@pytest.mark.parametrize("line_ends", ["lf", "crlf"])
async def test_a_binary_mail_is_not_touched(
    line_ends: str, responder: ScriptedResponder, nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    content = bytes(range(256)) + b"\r\n.\r\n\r\r\n\n\r"
    house = House(nursery, journal, f'[scripts]\nline_ends = "{line_ends}"', connect=responder.connect)
    client = await house.guest()
    await begin(client, b" BODY=BINARYMIME")
    assert await chunk(client, content[:100]) == CHUNK_OK
    assert (await chunk(client, content[100:], b" LAST")).startswith(STORED)
    fields = responder.requests[0].fields
    assert fields["body"].encode("latin-1").endswith(b"+0000\r\n" + content)
    assert fields["body_type"] == "BINARYMIME"
    assert fields["size"] == str(len(fields["body"]))


async def test_dsn_reaches_the_script(
    responder: ScriptedResponder, nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    house = House(nursery, journal, '[scripts]\nvalidate = "/srv/mail/validate.php"', connect=responder.connect)
    client = await house.guest()
    await begin(client, b" RET=HDRS ENVID=QQ+2B1")
    assert await client.ask(b"RCPT TO:<c@example.com> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;c+2Bc@x.example") == TAKEN
    assert (await chunk(client, MAIL, b" LAST")).startswith(STORED)
    first, _, save = responder.requests
    assert (first.fields["dsn_ret"], first.fields["dsn_envid"]) == ("HDRS", "QQ+1")
    given = {name: value for name, value in save.fields.items() if "dsn" in name or "notify" in name or "orcpt" in name}
    assert given == {
        "dsn_envid": "QQ+1",
        "dsn_ret": "HDRS",
        "rcpt_notify_1": "DELAY,SUCCESS",
        "rcpt_orcpt_1": "rfc822;c+c@x.example",
    }
    await begin(client)
    await chunk(client, MAIL, b" LAST")
    assert not any("dsn" in name or "notify" in name for name in responder.requests[-1].fields), "of the mail before"


async def test_recipients_with_long_parameters_fill_the_request(
    responder: ScriptedResponder, nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    client = await House(nursery, journal, "[limits]\nrecipients = 0", connect=responder.connect).guest()
    await client.ask(b"MAIL FROM:<>")
    recipient = b"RCPT TO:<b@example.com> NOTIFY=SUCCESS,DELAY,FAILURE ORCPT=rfc822;" + b"x" * 493
    taken = 0
    while (reply := await client.ask(recipient)) == TAKEN:
        taken += 1
    assert reply == b"452 4.5.3 Too many recipients\r\n"
    assert taken > 80
    assert (await chunk(client, MAIL, b" LAST")).startswith(STORED)
    assert responder.requests[0].fields["rcpt_count"] == str(taken)


async def test_too_big_in_all_is_refused_and_leaves_nothing_behind(
    responder: ScriptedResponder, nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    client = await House(nursery, journal, "[limits]\nmessage_octets = 100", connect=responder.connect).guest()
    await begin(client)
    assert await chunk(client, b"x" * 60) == CHUNK_OK
    assert await chunk(client, b"QUIT\r\n" * 10) == TOO_BIG
    assert await chunk(client, b"", b" LAST") == TOO_BIG
    assert responder.requests == []
    await begin(client)
    assert (await chunk(client, MAIL, b" LAST")).startswith(STORED)
    assert body_of(responder) == MAIL.replace(b"\r\n", b"\n")


async def test_a_full_spool_is_told_at_the_end(
    responder: ScriptedResponder, nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal, tmp_path: Path
) -> None:
    spool = f'[spool]\nmemory_octets = 0\ntotal_octets = 1_000_000\ndirectory = "{tmp_path}"'
    client = await House(nursery, journal, spool, connect=responder.connect).guest()
    await begin(client)
    assert await chunk(client, b"x" * 2_000_000) == CHUNK_OK
    assert await chunk(client, b"", b" LAST") == b"452 4.3.1 Insufficient storage; try again later\r\n"
    assert responder.requests == []


@pytest.mark.parametrize("command", [b"RSET", b"EHLO other.example"])
async def test_a_reset_between_chunks_forgets_the_mail(
    command: bytes, responder: ScriptedResponder, nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    client = await House(nursery, journal, connect=responder.connect).guest()
    await begin(client, b" RET=FULL")
    assert await chunk(client, b"forgotten") == CHUNK_OK
    assert (await client.ask(command)).startswith(b"250")
    await begin(client)
    assert (await chunk(client, MAIL, b" LAST")).startswith(STORED)
    (save,) = responder.requests
    assert "forgotten" not in save.fields["body"]
    assert "dsn_ret" not in save.fields


async def test_end_of_file_within_a_chunk_delivers_nothing(
    responder: ScriptedResponder, nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    client = await House(nursery, journal, connect=responder.connect).guest()
    await begin(client)
    await client.send(b"BDAT 100 LAST\r\n" + MAIL)
    await client.stream.send_eof()
    assert await client.rest() == b""
    assert responder.requests == []


async def test_an_unreadable_size_is_told_before_we_close(
    responder: ScriptedResponder, nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    client = await House(nursery, journal, connect=responder.connect).guest()
    await begin(client)
    await client.send(b"BDAT five\r\nQUIT\r\n")
    assert await client.rest() == b"501 5.5.4 Bad chunk size\r\n"


# What a listener offers


async def test_a_listener_offers_its_extensions_only(
    responder: ScriptedResponder, nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    house = House(nursery, journal, LISTENER + 'extensions = ["SIZE", "DSN"]', connect=responder.connect)
    client, _ = house.visit()
    await client.reply()
    assert await client.ask(b"EHLO x") == b"250-mx.example.com\r\n250-SIZE 26214400\r\n250 DSN\r\n"
    await begin(client, b" RET=FULL")
    assert await chunk(client, b"QUIT\r\n", b" LAST") == b"502 Command not implemented\r\n"
    assert (await client.ask(b"DATA")).startswith(b"354 ")


@pytest.mark.parametrize(
    ("setting", "reply"),
    [
        pytest.param("true", TAKEN, id="lenient"),
        pytest.param("false", b"501 5.1.3 Bad recipient address syntax\r\n", id="strict"),
    ],
)
async def test_paths_without_brackets(
    setting: str,
    reply: bytes,
    responder: ScriptedResponder,
    nursery: trio.Nursery,
    autojump_clock: MockClock,
    journal: Journal,
) -> None:
    house = House(nursery, journal, LISTENER + f"lenient_paths = {setting}", connect=responder.connect)
    client = await house.guest()
    await client.ask(b"MAIL FROM:<>")
    assert await client.ask(b"RCPT TO:b@example.com") == reply


# Deadlines


async def test_silence_within_a_chunk_ends_after_data_seconds(
    responder: ScriptedResponder, nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    client = await House(nursery, journal, LIMITS, connect=responder.connect).guest()
    await begin(client)
    await client.send(b"BDAT 100\r\nx")
    seconds = elapsed()
    assert await client.rest() == TIMED_OUT
    assert seconds() == pytest.approx(23)


async def test_silence_between_chunks_ends_after_idle_seconds(
    responder: ScriptedResponder, nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    client = await House(nursery, journal, LIMITS, connect=responder.connect).guest()
    await begin(client)
    assert await chunk(client, b"x") == CHUNK_OK
    seconds = elapsed()
    assert await client.rest() == TIMED_OUT
    assert seconds() == pytest.approx(17)


@pytest.mark.parametrize("is_wanted", [True, False], ids=["wanted", "unwanted"])
async def test_a_trickling_chunk_is_cut(
    is_wanted: bool, responder: ScriptedResponder, nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    """Also where the octets are only thrown away."""
    client = await House(nursery, journal, LIMITS, connect=responder.connect).guest()
    if is_wanted:
        await begin(client)
    await client.send(b"BDAT 1000000\r\n")
    seconds = elapsed()

    async def trickle() -> None:
        with trickling:
            while True:
                await client.send(b"x" * 99)
                await trio.sleep(1)

    trickling = trio.CancelScope()
    nursery.start_soon(trickle)
    assert await client.reply() == TOO_SLOW
    trickling.cancel()
    assert 23 <= seconds() <= 2 * 23


async def test_time_between_commands_is_not_held_against_a_chunk_to_come(
    responder: ScriptedResponder, nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    client = await House(nursery, journal, LIMITS, connect=responder.connect).guest()
    for _ in range(5):
        await client.send(b"BDAT 6\r\nQU")
        await trio.sleep(1)
        await client.send(b"IT\r\n")
        assert (await client.reply()).startswith(b"503 ")
        for _ in range(3):
            await trio.sleep(16)
            assert (await client.ask(b"RSET")).startswith(b"250 ")
