"""XCLIENT on a server: who may use it, and all that hangs on whom it tells of."""

from pathlib import Path
from typing import Final

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.clients import require, run_client
from tests.server.test_proxied import TEXT, certificate, encrypted
from tests.support import Act, Dialogue, House, Journal, Line, ScriptedResponder, serving, settings
from trio_fcgimail.mail import ClientCertificate, Peer, Session, TlsFacts
from trio_fcgimail.server.limits import Limit
from trio_fcgimail.server.visitor import Visitor, introduced
from trio_fcgimail.smtp import XclientAttributes

pytestmark = pytest.mark.trio

PROXY: Final = Visitor(Peer("192.0.2.77", 1))
STORED: Final = b"250 2.0.0 OK: queued as "
BANNER: Final = b"220 mx.example.com ESMTP\r\n"
HELLO: Final = b"EHLO proxy.example"
ALLOWED: Final = '[[listeners]]\naddress = "127.0.0.1:0"\nxclient_from = ["192.0.2.77"]\n'
CONNECT: Final = ALLOWED + '[scripts]\nconnect = "/srv/mail/connect.php"\n'


@pytest.fixture
def responder(nursery: trio.Nursery) -> ScriptedResponder:
    return ScriptedResponder(nursery)


async def proxy(house: House, visitor: Visitor = PROXY) -> Dialogue:
    """A peer that has said hello."""
    client, _ = house.visit(visitor)
    await client.reply()
    await client.ask(HELLO)
    return client


async def speak_for(client: Dialogue, attributes: bytes, hello: bytes = HELLO) -> None:
    """XCLIENT, and hello again."""
    assert await client.ask(b"XCLIENT " + attributes) == BANNER
    assert (await client.ask(b"MAIL FROM:<>")).startswith(b"503 5.5.1 ")
    assert (await client.ask(hello)).startswith(b"250")


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        pytest.param(b"ADDR=192.0.2.9 PORT=4025", {"remote_ip": "192.0.2.9", "remote_port": "4025"}, id="address"),
        pytest.param(b"ADDR=IPV6:2001:db8::9", {"remote_ip": "2001:db8::9", "remote_port": ""}, id="ipv6"),
        pytest.param(b"ADDR=IPV6:::ffff:192.0.2.9", {"remote_ip": "192.0.2.9"}, id="mapped"),
        pytest.param(b"ADDR=[UNAVAILABLE]", {"remote_ip": "", "remote_port": ""}, id="unknown"),
        pytest.param(b"ADDR=[TEMPUNAVAIL]", {"remote_ip": "", "remote_port": ""}, id="unknown-for-now"),
        pytest.param(b"PORT=4025", {"remote_ip": "192.0.2.77", "remote_port": "4025"}, id="port"),
        pytest.param(b"HELO=client.example", {"helo": "client.example", "with": "ESMTP"}, id="helo"),
        pytest.param(b"HELO=[UNAVAILABLE]", {"helo": "proxy.example"}, id="no-helo"),
        pytest.param(b"PROTO=SMTP", {"with": "SMTP", "helo": "proxy.example"}, id="smtp"),
        pytest.param(b"LOGIN=b+C3+BCb", {"auth_user": "b\u00fcb", "with": "ESMTPA"}, id="login"),
        pytest.param(b"LOGIN=[UNAVAILABLE]", {"auth_user": None, "with": "ESMTP"}, id="no-login"),
        pytest.param(b"NAME=client.example DESTADDR=192.0.2.1 DESTPORT=25", {"remote_ip": "192.0.2.77"}, id="logged"),
    ],
)
async def test_the_script_gets_the_client(
    attributes: bytes,
    expected: dict[str, str | None],
    responder: ScriptedResponder,
    nursery: trio.Nursery,
    autojump_clock: MockClock,
    journal: Journal,
) -> None:
    client = await proxy(House(nursery, journal, ALLOWED, connect=responder.connect))
    await speak_for(client, attributes)
    assert (await client.mail()).startswith(STORED)
    fields = {name: value.encode("latin-1").decode() for name, value in responder.requests[0].fields.items()}
    assert {name: fields.get(name) for name in expected} == expected
    assert responder.requests[0].params["REMOTE_ADDR"] == (fields["remote_ip"] or "127.0.0.1")


async def test_what_was_told_stands_until_it_is_told_anew(
    responder: ScriptedResponder, nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    client = await proxy(House(nursery, journal, ALLOWED, connect=responder.connect))
    await speak_for(client, b"ADDR=192.0.2.9 PORT=1 HELO=first.example PROTO=SMTP LOGIN=bob")
    await client.ask(b"EHLO again.example")
    await client.mail()
    await speak_for(client, b"PORT=2")
    await client.mail()
    await speak_for(client, b"ADDR=192.0.2.10 HELO=[UNAVAILABLE] PROTO=ESMTP")
    await client.mail()
    names = ("remote_ip", "remote_port", "helo", "with", "auth_user")
    assert [tuple(request.fields.get(name) for name in names) for request in responder.requests] == [
        ("192.0.2.9", "1", "first.example", "SMTP", "bob"),
        ("192.0.2.9", "2", "first.example", "SMTP", None),
        ("192.0.2.10", "", "proxy.example", "ESMTP", None),
    ]


async def test_the_trace_and_the_log_name_the_client(
    responder: ScriptedResponder, nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    client = await proxy(House(nursery, journal, ALLOWED, connect=responder.connect))
    await speak_for(client, b"NAME=c.example ADDR=192.0.2.9 HELO=c.example LOGIN=bob DESTADDR=192.0.2.1 DESTPORT=25")
    await client.mail()
    await client.ask(b"QUIT")
    assert responder.requests[0].fields["body"].startswith("Received: from c.example ([192.0.2.9])\n")
    (entry,) = journal.entries("client introduced")
    assert (
        entry.items()
        >= {
            "peer": "192.0.2.77",
            "name": "c.example",
            "address": "192.0.2.9",
            "helo": "c.example",
            "login": "bob",
            "destination_address": "192.0.2.1",
            "destination_port": 25,
        }.items()
    )
    await client.close()
    await wait_all_tasks_blocked()
    (closed,) = journal.entries("connection closed")
    assert (closed["peer"], closed["via"]) == ("192.0.2.9", "192.0.2.77")


# Who may


@pytest.mark.parametrize("visitor", [Visitor(Peer("192.0.2.78", 1)), Visitor(Peer("", 0))], ids=["tcp", "unix"])
async def test_others_may_not(
    visitor: Visitor, responder: ScriptedResponder, nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    client, _ = House(nursery, journal, ALLOWED, connect=responder.connect).visit(visitor)
    await client.reply()
    assert b"XCLIENT" not in await client.ask(HELLO)
    assert (await client.ask(b"XCLIENT ADDR=192.0.2.9")).startswith(b"502 5.5.1 ")
    assert (await client.mail()).startswith(STORED)
    assert responder.requests[0].fields["remote_ip"] == visitor.peer.ip


async def test_nobody_may_by_default(nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal) -> None:
    client, _ = House(nursery, journal).visit(Visitor(Peer("127.0.0.1", 1)))
    await client.reply()
    assert b"XCLIENT" not in await client.ask(HELLO)


@pytest.mark.parametrize(
    ("listed", "visitor", "offered"),
    [
        pytest.param("unix", Visitor(Peer("", 0)), True, id="unix"),
        pytest.param("unix", Visitor(Peer("", 0), via=PROXY.peer), False, id="unix-at-another-proxy"),
        pytest.param("192.0.2.77", Visitor(PROXY.peer, via=Peer("10.0.0.1", 1)), True, id="as-PROXY-says"),
        pytest.param("10.0.0.1", Visitor(PROXY.peer, via=Peer("10.0.0.1", 1)), False, id="not-who-said-it"),
        pytest.param("2001:db8::/32", Visitor(Peer("2001:db8::1", 1)), True, id="network"),
    ],
)
async def test_who_may_is_known_by_address(
    listed: str, visitor: Visitor, offered: bool, nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    client, _ = House(nursery, journal, ALLOWED.replace("192.0.2.77", listed)).visit(visitor)
    await client.reply()
    keywords = await client.ask(HELLO)
    assert (b"XCLIENT NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT" in keywords) is offered


async def test_to_be_introduced_takes_nothing_from_the_proxy(
    responder: ScriptedResponder, nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    client = await proxy(House(nursery, journal, ALLOWED, connect=responder.connect))
    for number in range(3):
        await speak_for(client, b"ADDR=192.0.2.%d" % number)
    assert (await client.ask(b"MAIL FROM:<>")).startswith(b"250 ")
    assert (await client.ask(b"XCLIENT ADDR=192.0.2.9")).startswith(b"503 5.5.1 ")
    await client.reset()
    assert (await client.ask(b"XCLIENT ADDR=999.0.2.9")).startswith(b"501 5.5.4 ")
    assert (await client.mail()).startswith(STORED)
    assert responder.requests[0].fields["remote_ip"] == "192.0.2.2"


# What is asked and counted anew


def connect_says(answers: dict[str, bytes]) -> Act:
    """A connect script that answers by the address."""

    async def act(line: Line) -> None:
        request = await line.request()
        await line.answer(b"SAVED" if request.is_post else answers[request.fields["remote_ip"]])

    return act


async def test_the_connect_stage_is_asked_for_the_client(
    responder: ScriptedResponder, nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    responder.act = connect_says({"192.0.2.77": b"PASSED", "192.0.2.9": b"PASSED"})
    client = await proxy(House(nursery, journal, CONNECT, connect=responder.connect))
    await speak_for(client, b"ADDR=192.0.2.9")
    assert [entry["peer"] for entry in journal.entries("connection")] == ["192.0.2.77", "192.0.2.9"]


@pytest.mark.parametrize(
    ("answer", "reply"),
    [
        pytest.param(b"no", b"521 5.7.1 No service for you\r\n", id="refused"),
        pytest.param(b"554 5.7.1 Go away", b"521 5.7.1 Go away\r\n", id="refused-with-words"),
        pytest.param(b"450 4.7.1 Later", b"421 4.7.1 Later\r\n", id="for-now"),
        pytest.param(b"", b"421 4.3.0 Local error; closing\r\n", id="failed"),
    ],
)
async def test_a_client_that_is_refused_is_not_taken_for_its_proxy(
    answer: bytes,
    reply: bytes,
    responder: ScriptedResponder,
    nursery: trio.Nursery,
    autojump_clock: MockClock,
    journal: Journal,
) -> None:
    responder.act = connect_says({"192.0.2.77": b"PASSED", "192.0.2.9": answer})
    client = await proxy(House(nursery, journal, CONNECT, connect=responder.connect))
    await client.send(b"XCLIENT ADDR=192.0.2.9\r\nEHLO x\r\nMAIL FROM:<>\r\n")
    assert await client.rest() == reply


async def test_limits_are_those_of_the_client(
    responder: ScriptedResponder, nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    limits = "[limits]\nconnections_per_ip = 1\nmessages_per_minute_per_ip = 1\nconnections_per_minute_per_ip = 2\n"
    house = House(nursery, journal, ALLOWED + limits, connect=responder.connect)
    first, second = await proxy(house), await proxy(house)
    await speak_for(first, b"ADDR=192.0.2.9")
    assert (await first.mail()).startswith(STORED)
    assert (await first.ask(b"MAIL FROM:<>")).startswith(b"450 4.7.1 ")
    assert await second.ask(b"XCLIENT ADDR=192.0.2.9") == (
        b"421 4.7.0 Too many connections from you; try again later\r\n"
    )
    await speak_for(first, b"ADDR=192.0.2.10")
    assert (await first.mail()).startswith(STORED)
    await speak_for(first, b"ADDR=[UNAVAILABLE]")  # whom no limit by address can apply to
    for _ in range(3):
        assert (await first.mail()).startswith(STORED)
    await speak_for(first, b"ADDR=192.0.2.9")
    assert await first.ask(b"XCLIENT ADDR=192.0.2.9") == b"421 4.7.0 Connecting too often; try again later\r\n"
    hits = house.gateway.hits.snapshot()
    assert [hits[limit] for limit in (Limit.CONNECTIONS_PER_IP, Limit.CONNECTIONS_PER_MINUTE_PER_IP)] == [1, 1]


async def test_a_proxy_is_never_exempt_from_the_limit_of_its_connection(
    responder: ScriptedResponder, nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    limits = '[limits]\nmessages_per_connection = 1\nexempt_from = ["192.0.2.77"]\n'
    client = await proxy(House(nursery, journal, ALLOWED + limits, connect=responder.connect))
    assert (await client.mail()).startswith(STORED)
    assert (await client.ask(b"MAIL FROM:<>")).startswith(b"421 4.7.0 ")


async def test_the_certificate_of_a_proxy_is_not_that_of_whom_it_speaks_for() -> None:
    tls = TlsFacts("TLSv1.3", "TLS_AES_256_GCM_SHA384", ClientCertificate("CN=proxy.example", "0" * 64))
    facts = introduced(Session(PROXY.peer, tls=tls), XclientAttributes(address="192.0.2.9"))
    assert facts.tls == TlsFacts("TLSv1.3", "TLS_AES_256_GCM_SHA384")
    assert introduced(Session(PROXY.peer), XclientAttributes(address="192.0.2.9")).tls is None


# Over sockets


def _config(folder: Path, listener: str, limits: str = "") -> str:
    return (
        f'[[listeners]]\naddress = "127.0.0.1:0"\n{listener}\n[limits]\n{limits}\n'
        f'[fastcgi]\nupstreams = ["unix:{folder}/fcgi"]\n'
    )


async def test_a_trusted_proxy_is_not_counted_by_its_own_address(
    responder: ScriptedResponder, journal: Journal, tmp_path: Path
) -> None:
    await responder.listen(tmp_path / "fcgi")
    limits = "connections_per_ip = 1\nconnections_per_minute_per_ip = 2\nexempt_from = []"
    config = settings(_config(tmp_path, 'xclient_from = ["127.0.0.1"]', limits))
    async with serving(config, journal) as house:
        for number in range(5):
            client = await house.guest()
            await speak_for(client, b"ADDR=192.0.2.%d" % number)
            assert (await client.mail()).startswith(STORED)


async def test_by_way_of_proxy(responder: ScriptedResponder, journal: Journal, tmp_path: Path) -> None:
    await responder.listen(tmp_path / "fcgi")
    listener = 'proxy_protocol_from = ["127.0.0.1"]\nxclient_from = ["192.0.2.1"]'
    async with serving(settings(_config(tmp_path, listener)), journal) as house:
        client = await house.dial()
        await client.send(TEXT)
        await client.hello()
        await speak_for(client, b"ADDR=198.51.100.1")
        assert (await client.mail()).startswith(STORED)
    assert responder.requests[0].fields["remote_ip"] == "198.51.100.1"


async def test_behind_starttls_the_address_stays(
    responder: ScriptedResponder, journal: Journal, tmp_path: Path
) -> None:
    """RFC 3207 4.2 has the rest forgotten; the address is what the limits count by."""
    await responder.listen(tmp_path / "fcgi")
    with certificate(tmp_path) as (files, context):
        listener = f'xclient_from = ["127.0.0.1"]\ntls = "starttls"\n{files}'
        async with serving(settings(_config(tmp_path, listener)), journal) as house:
            client = await house.guest()
            await speak_for(client, b"ADDR=192.0.2.9 HELO=client.example PROTO=SMTP LOGIN=bob")
            assert (await client.ask(b"STARTTLS")).startswith(b"220 ")
            stream = await encrypted(client, context)
            client = Dialogue(trio.StapledStream(stream, stream))
            await client.ask(HELLO)
            assert (await client.mail()).startswith(STORED)
            await client.close()
    fields = responder.requests[0].fields
    names = ("remote_ip", "helo", "with", "auth_user", "tls_on")
    assert [fields.get(name) for name in names] == ["192.0.2.9", "proxy.example", "ESMTPS", None, "true"]


async def test_swaks_speaks_xclient(responder: ScriptedResponder, journal: Journal, tmp_path: Path) -> None:
    swaks = require("swaks", "swaks")
    await responder.listen(tmp_path / "fcgi")
    async with serving(settings(_config(tmp_path, 'xclient_from = ["127.0.0.0/8"]')), journal) as house:
        port = str(house.addresses[0]).rpartition(":")[2]
        command = [swaks, "--server", "127.0.0.1", "--port", port, "--helo", "proxy.example", "--from", "a@example.net",
            "--to", "b@example.com", "--xclient-addr", "192.0.2.9", "--xclient-name", "client.example",
            "--xclient-helo", "client.example", "--xclient-proto", "ESMTP", "--xclient-port", "4025",
            "--xclient-login", "bob", "--xclient-destaddr", "192.0.2.1", "--xclient-destport", "25"]  # fmt: skip
        outcome = await trio.to_thread.run_sync(run_client, command)
    assert outcome.sent, outcome.said
    names = ("remote_ip", "remote_port", "helo", "auth_user", "with")
    fields = responder.requests[0].fields
    assert [fields[name] for name in names] == ["192.0.2.9", "4025", "client.example", "bob", "ESMTPA"]
