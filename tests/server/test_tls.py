"""TLS of a whole session and of a whole server, between two ends of OpenSSL: who gets to it, what it hides, its end."""

import re
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Final

import pytest
import trio
from trio.testing import MemorySendStream, MockClock, memory_stream_pair, wait_all_tasks_blocked

from tests.certificates import Authority
from tests.server.encrypted import READY, Hall, dialogue_over, is_tls, tls_listener
from tests.support import (
    MAIL,
    Dialogue,
    House,
    Journal,
    elapsed,
)
from trio_fcgimail.config import TlsMode
from trio_fcgimail.server.session import Drain, Session

pytestmark = pytest.mark.trio

BYE: Final = b"221 2.0.0 Bye\r\n"
STORED: Final = b"250 2.0.0 OK: queued as "
SHUTTING_DOWN: Final = b"421 4.3.2 Shutting down; try again later\r\n"
TIMED_OUT: Final = b"421 4.4.2 Timed out waiting for you; closing\r\n"
BEHIND_STARTTLS: Final = b"554 5.5.1 Nothing may follow STARTTLS; closing\r\n"
HELLO_BEGINS: Final = b"\x16\x03\x01\x02\x00"  # the head of a record of 512 octets, of which none follows
MODES: Final = [pytest.param(TlsMode.STARTTLS, id="starttls"), pytest.param(TlsMode.IMPLICIT, id="implicit")]


OpenHall = Callable[..., Hall]


@pytest.fixture
async def hall(nursery: trio.Nursery, journal: Journal, authority: Authority) -> OpenHall:
    def build(tls: TlsMode, toml: str = "") -> Hall:
        return Hall(nursery, journal, authority, tls, toml)

    return build


def _problems(journal: Journal) -> list[object]:
    return [entry["problem"] for entry in journal.entries("no TLS")]


# What a mail is told of it


@pytest.mark.parametrize("tls", MODES)
@pytest.mark.parametrize(
    ("version", "cipher"),
    [
        pytest.param(ssl.TLSVersion.TLSv1_2, "ECDHE-ECDSA-AES256-GCM-SHA384", id="1.2"),
        pytest.param(ssl.TLSVersion.TLSv1_3, "TLS_AES_256_GCM_SHA384", id="1.3"),
    ],
)
async def test_the_script_and_the_trace_know_of_tls(
    autojump_clock: MockClock, hall: OpenHall, authority: Authority, tls: TlsMode, version: ssl.TLSVersion, cipher: str
) -> None:
    context = authority.trusting()
    context.minimum_version = context.maximum_version = version
    house = hall(tls, '[scripts]\nvalidate = "/srv/mail/validate.php"')
    client, visit = await house.guest(context)
    assert (await client.mail()).startswith(STORED)
    protocol = version.name.replace("_", ".")
    validate, save = house.scripts.requests
    for request in (validate, save):
        told = {name: request.fields[name] for name in ("tls_on", "tls_protocol", "tls_cipher", "with")}
        assert told == {"tls_on": "true", "tls_protocol": protocol, "tls_cipher": cipher, "with": "ESMTPS"}
    trace = save.fields["body"].splitlines()[:3]
    assert trace[0] == "Received: from client.example ([192.0.2.1])"
    assert trace[1] == f"\t(using {protocol} with cipher {cipher})"
    assert re.fullmatch(r"\tby mx\.example\.com with ESMTPS id \w+", trace[2])
    assert is_tls(visit.wire.heard)


async def test_a_mail_that_was_begun_in_the_clear_is_gone(autojump_clock: MockClock, hall: OpenHall) -> None:
    house = hall(TlsMode.STARTTLS)
    visit = await house.visit()
    client = await visit.encrypt()
    assert await client.ask(b"MAIL FROM:<a@client.example>") == b"503 5.5.1 Say hello first\r\n"
    assert (await client.ask(b"EHLO client.example")).startswith(b"250-")
    assert (await client.mail()).startswith(STORED)
    (request,) = house.scripts.requests
    assert request.fields["helo"] == "client.example"


async def test_the_spool_of_a_mail_in_chunks_is_given_back_at_starttls(
    autojump_clock: MockClock, nursery: trio.Nursery, journal: Journal, authority: Authority
) -> None:
    house = House(nursery, journal, tls_listener(authority, TlsMode.STARTTLS) + "[spool]\nmemory_octets = 0")
    client = await house.guest()
    assert (await client.ask(b"MAIL FROM:<a@client.example>")).startswith(b"250 ")
    assert (await client.ask(b"RCPT TO:<b@example.com>")).startswith(b"250 ")
    await client.send(b"BDAT 5\r\nhello")
    assert (await client.reply()).startswith(b"250 ")
    assert house.room.used_octets > 0
    assert await client.ask(b"STARTTLS") == READY
    await authority.client(client.stream).do_handshake()
    await wait_all_tasks_blocked()
    assert house.room.used_octets == 0


# Who gets to it


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1:DeprecationWarning")
@pytest.mark.parametrize("tls", MODES)
@pytest.mark.parametrize("name", ["TLSv1", "TLSv1_1"])
async def test_old_versions_are_refused(
    autojump_clock: MockClock, hall: OpenHall, authority: Authority, journal: Journal, tls: TlsMode, name: str
) -> None:
    context = authority.trusting()
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = ssl.TLSVersion[name]
    visit = await hall(tls).visit()
    with pytest.raises(trio.BrokenResourceError):
        await visit.encrypt(context)
    assert visit.wire.heard == b"\x15\x03\x03\x00\x02\x02\x46"  # the alert protocol_version, RFC 8446 6
    assert _problems(journal) == ["TLS handshake failed: unsupported protocol"]


NO_HELLOS: Final = [
    pytest.param(b"EHLO client.example\r\n", id="smtp"),
    pytest.param(b"MAIL FROM:<mallory@example.net>\r\nRCPT TO:<b@example.com>\r\nDATA\r\n", id="smtp-pipelined"),
    pytest.param(b"QUIT\r\n", id="quit"),
    pytest.param(b"GET / HTTP/1.1\r\nHost: mx.example.com\r\n\r\n", id="http"),
    pytest.param(b"\x16\x03\x01\x00\x05hello", id="record-of-no-hello"),
    pytest.param(b"\x16\x03\x01\xff\xff" + 70_000 * b"x", id="record-too-long"),
    pytest.param(b"\x15\x03\x01\x00\x02\x02\x28", id="alert"),
    pytest.param(b"\x80\x2e\x01\x00\x02" + 50 * b"x", id="sslv2"),
    pytest.param(bytes(range(256)), id="octets"),
]


@pytest.mark.parametrize("tls", MODES)
@pytest.mark.parametrize("octets", NO_HELLOS)
async def test_what_is_no_hello_is_not_answered(
    autojump_clock: MockClock, hall: OpenHall, journal: Journal, tls: TlsMode, octets: bytes
) -> None:
    house = hall(tls)
    visit = await house.visit()
    with suppress(trio.BrokenResourceError):  # closed in its face, perhaps
        await visit.wire.send_all(octets)
    assert is_tls(await visit.heard_at_the_end())
    (problem,) = _problems(journal)
    assert str(problem).startswith("TLS handshake failed: ")
    assert house.scripts.requests == []
    client, _ = await house.guest()
    assert (await client.mail()).startswith(STORED)


@pytest.mark.parametrize("tls", MODES)
@pytest.mark.parametrize("octets", [pytest.param(b"", id="at-once"), pytest.param(HELLO_BEGINS, id="within-a-record")])
async def test_a_client_that_vanishes_in_the_handshake(
    autojump_clock: MockClock, hall: OpenHall, journal: Journal, tls: TlsMode, octets: bytes
) -> None:
    visit = await hall(tls).visit()
    if octets:
        await visit.wire.send_all(octets)
    await visit.wire.send_eof()
    assert await visit.heard_at_the_end() == b""
    assert _problems(journal) == ["TLS handshake failed: the client closed"]


@pytest.mark.parametrize("tls", MODES)
async def test_a_handshake_has_its_seconds_however_it_trickles_in(
    autojump_clock: MockClock, hall: OpenHall, journal: Journal, tls: TlsMode
) -> None:
    house = hall(tls, "[limits]\ntls_handshake_seconds = 13\nidle_seconds = 1000")
    visit = await house.visit()
    seconds = elapsed()
    await visit.wire.send_all(HELLO_BEGINS)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_trickle, visit.wire)
        assert await visit.heard_at_the_end() == b""
        assert seconds() == pytest.approx(13)
        nursery.cancel_scope.cancel()
    assert _problems(journal) == ["no TLS handshake within 13 s"]


async def _trickle(stream: trio.abc.SendStream) -> None:
    with suppress(trio.BrokenResourceError):
        while True:
            await trio.sleep(3)
            await stream.send_all(b"x")


async def test_others_are_served_while_somebody_stalls(autojump_clock: MockClock, hall: OpenHall) -> None:
    house = hall(TlsMode.STARTTLS)
    await house.visit()
    seconds = elapsed()
    client, _ = await house.guest()
    assert (await client.mail()).startswith(STORED)
    assert seconds() == 0


async def test_behind_the_handshake_idle_seconds_begin_anew(autojump_clock: MockClock, hall: OpenHall) -> None:
    house = hall(TlsMode.STARTTLS, "[limits]\ntls_handshake_seconds = 13\nidle_seconds = 17")
    visit = await house.visit()
    await trio.sleep(12)
    client = await visit.encrypt()
    seconds = elapsed()
    assert await client.rest() == TIMED_OUT
    assert seconds() == pytest.approx(17)


# Injection (RFC 3207 4.2, CVE-2011-0411)


@pytest.mark.parametrize(
    "octets",
    [
        pytest.param(b"RSET\r\n", id="command"),
        pytest.param(b"MAIL FROM:<mallory@example.net>\r\nRCPT TO:<b@example.com>\r\n", id="envelope"),
        pytest.param(b"\n", id="one-octet"),
        pytest.param(HELLO_BEGINS, id="tls"),
    ],
)
async def test_octets_behind_starttls_close(autojump_clock: MockClock, hall: OpenHall, octets: bytes) -> None:
    house = hall(TlsMode.STARTTLS)
    theirs, ours = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(house.session(ours).run)
        client = Dialogue(theirs)
        await client.hello()
        await client.send(b"STARTTLS\r\n" + octets)
        assert await client.rest() == BEHIND_STARTTLS
    assert house.scripts.requests == []


async def test_octets_between_starttls_and_the_handshake_have_no_effect(
    autojump_clock: MockClock, hall: OpenHall, authority: Authority, journal: Journal
) -> None:
    house = hall(TlsMode.STARTTLS)
    visit = await house.visit()
    await visit.wire.send_all(b"MAIL FROM:<mallory@example.net>\r\n")
    with pytest.raises(trio.BrokenResourceError):
        await visit.encrypt()
    assert visit.wire.heard == b""
    assert len(_problems(journal)) == 1


# The end of a session


@pytest.mark.parametrize("tls", MODES)
async def test_cut_in_the_handshake_says_nothing(
    autojump_clock: MockClock, hall: OpenHall, journal: Journal, tls: TlsMode
) -> None:
    visit = await hall(tls).visit()
    await visit.wire.send_all(HELLO_BEGINS)
    await wait_all_tasks_blocked()
    visit.session.cut()
    assert await visit.heard_at_the_end() == b""
    assert journal.entries("session failed") == []


@pytest.mark.parametrize("tls", MODES)
async def test_drained_in_the_handshake_is_told_over_tls(
    autojump_clock: MockClock, hall: OpenHall, tls: TlsMode
) -> None:
    visit = await hall(tls).visit()
    visit.session.drain(Drain.STOPPING)
    client = await visit.encrypt()
    assert await client.rest() == SHUTTING_DOWN
    assert is_tls(visit.wire.heard)


async def test_cut_as_starttls_arrives_says_nothing_that_could_be_misunderstood(
    autojump_clock: MockClock, hall: OpenHall
) -> None:
    theirs, ours = memory_stream_pair()
    session = hall(TlsMode.STARTTLS).session(ours)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(session.run)
        client = Dialogue(theirs)
        await client.hello()
        await wait_all_tasks_blocked()
        assert isinstance(theirs.send_stream, MemorySendStream)
        theirs.send_stream.send_all_hook = _then_cut(theirs.send_stream.send_all_hook, session)
        await client.send(b"STARTTLS\r\n")
        assert await client.rest() == b""


def _then_cut(pump: Callable[[], Awaitable[object]] | None, session: Session) -> Callable[[], Awaitable[object]]:
    assert pump is not None

    async def pump_and_cut() -> None:
        await pump()
        session.cut()

    return pump_and_cut


@pytest.mark.parametrize("tls", MODES)
@pytest.mark.parametrize("end", [Session.cut, partial(Session.drain, drain=Drain.STOPPING)], ids=["cut", "drained"])
async def test_ended_behind_the_handshake_is_told_over_tls(
    autojump_clock: MockClock, hall: OpenHall, tls: TlsMode, end: Callable[[Session], None]
) -> None:
    client, visit = await hall(tls).guest()
    await wait_all_tasks_blocked()
    end(visit.session)
    assert await client.rest() == SHUTTING_DOWN  # whose end is a close_notify: without one rest() fails
    assert is_tls(visit.wire.heard)


@pytest.mark.parametrize("tls", MODES)
async def test_cut_within_a_mail_is_told_over_tls(autojump_clock: MockClock, hall: OpenHall, tls: TlsMode) -> None:
    house = hall(tls)
    client, visit = await house.guest()
    await client.begin()
    await client.send(MAIL)
    await wait_all_tasks_blocked()
    visit.session.cut()
    assert await client.rest() == SHUTTING_DOWN
    assert is_tls(visit.wire.heard)
    assert house.scripts.requests == []


@pytest.mark.parametrize("tls", MODES)
async def test_a_good_end_is_said_by_tls_and_by_tcp(autojump_clock: MockClock, hall: OpenHall, tls: TlsMode) -> None:
    client, visit = await hall(tls).guest()
    seconds = elapsed()
    await client.send(b"QUIT\r\n")
    assert await client.rest() == BYE
    assert await visit.wire.receive_some() == b""
    assert seconds() <= 1  # of a client that does not answer the end of TLS before that of TCP


async def test_a_client_that_talks_on_has_its_last_reply(autojump_clock: MockClock, hall: OpenHall) -> None:
    client, visit = await hall(TlsMode.IMPLICIT).guest()
    await client.send(b"QUIT\r\n")
    await client.send(100 * b"NOOP\r\n")
    assert await client.rest() == BYE
    await client.send(100 * b"NOOP\r\n")
    assert await visit.wire.receive_some() == b""


@pytest.mark.parametrize("tls", MODES)
@pytest.mark.parametrize("close_notify", [pytest.param(True, id="close-notify"), pytest.param(False, id="bare-eof")])
async def test_an_end_within_a_mail_delivers_nothing(
    autojump_clock: MockClock, hall: OpenHall, journal: Journal, tls: TlsMode, close_notify: bool
) -> None:
    house = hall(tls)
    client, visit = await house.guest()
    await client.begin()
    await client.send(MAIL + b".")
    if close_notify:
        await client.close()
    else:
        await visit.wire.aclose()
    await wait_all_tasks_blocked()
    assert house.scripts.requests == []
    assert journal.entries("session failed") == []
    assert journal.entries("connection closed") != []


async def test_clients_that_close_without_a_close_notify_lose_nothing(
    autojump_clock: MockClock, hall: OpenHall, journal: Journal
) -> None:
    house = hall(TlsMode.IMPLICIT)
    client, visit = await house.guest()
    await client.begin()
    await client.send(MAIL + b".\r\n")
    await visit.wire.aclose()
    await wait_all_tasks_blocked()
    assert len(house.scripts.requests) == 1
    assert journal.entries("session failed") == []


async def test_octets_behind_a_close_notify_are_not_read(
    autojump_clock: MockClock, hall: OpenHall, authority: Authority
) -> None:
    """CVE-2026-45185: what TLS has ended, nothing in the clear goes on with."""
    house = hall(TlsMode.IMPLICIT)
    visit = await house.visit()
    stream = authority.client(visit.wire)
    client = dialogue_over(stream)
    await client.hello()
    await client.begin()
    await client.send(MAIL)
    await stream.unwrap()
    with suppress(trio.BrokenResourceError):
        await visit.wire.send_all(b".\r\nQUIT\r\n")
    assert await visit.heard_at_the_end() == b""
    assert house.scripts.requests == []
