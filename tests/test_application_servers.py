"""Any FastCGI application server will do: the same mails through each, by the real server, with a script of its own.

See tests/application_servers.py for the servers and for what differs between them.
"""

import re
import smtplib
import socket
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, assert_never

import pytest
import trio

from tests.application_servers import (
    ROOT,
    SERVERS,
    WORKERS,
    ApplicationServer,
    Asked,
    Death,
    Ending,
    Half,
    Place,
    Running,
    Transport,
    configuration,
)
from tests.clients import HELO, SECONDS
from tests.phpfpm import open_folder
from tests.server_process import ServerProcess
from trio_fcgimail.config import parse_upstream_address
from trio_fcgimail.fastcgi import (
    NEED_DATA,
    ClientConnection,
    ClientEvent,
    ConnectionClosed,
    NameValue,
    ProtocolStatus,
    RecordType,
    RequestEnded,
    StderrChunk,
    StdoutChunk,
    StreamEnded,
)
from trio_fcgimail.mail import get_parameters
from trio_fcgimail.server.pool import Kind, Pool, PoolRules

HEAD: Final = b"From: author@example.net\r\nTo: info@example.com\r\nSubject: Hello\r\n\r\n"
SAVE_SECONDS: Final = 1.0
SLEEP_SECONDS: Final = 60.0  # of the trials
TEMPFAIL: Final = (451, b"4.3.0 Local error; try again later")


@dataclass(slots=True)
class House:
    """A mail server in front of an application server."""

    kind: ApplicationServer
    app: Running
    place: Place
    server: ServerProcess

    def client(self) -> smtplib.SMTP:
        """A session; a context manager."""
        return smtplib.SMTP("127.0.0.1", self.server.port, local_hostname=HELO, timeout=SECONDS)

    def stored(self) -> set[Path]:
        """The mails that are there."""
        return set(self.place.mails.glob("*.eml"))


@pytest.fixture(scope="module", params=[pytest.param(server, id=server.id) for server in SERVERS])
def house(request: pytest.FixtureRequest) -> Iterator[House]:
    kind = request.param
    assert isinstance(kind, ApplicationServer)
    with open_folder() as folder, kind.running(folder) as (app, place):
        (folder / "fcgimail.toml").write_text(configuration(app))
        with ServerProcess("serve", "-c", "fcgimail.toml", folder=folder) as server:
            yield House(kind, app, place, server)
            assert server.stop() == 0


def data(client: smtplib.SMTP, recipient: str, content: bytes = HEAD + b"Hello.\r\n") -> tuple[int, bytes]:
    """Send one mail; the reply to its end."""
    client.ehlo_or_helo_if_needed()
    assert client.mail("author@example.net")[0] == 250
    assert client.rcpt(recipient)[0] == 250
    return client.data(content)


def test_the_transport_is_what_the_table_says(house: House) -> None:
    kind = Transport.UNIX if house.app.address.startswith("unix:") else Transport.TCP
    assert kind is house.kind.transport


def test_recipients_are_taken_and_refused_one_by_one(house: House) -> None:
    with house.client() as client:
        client.ehlo()
        client.mail("author@example.net")
        assert client.rcpt("info@example.com") == (250, b"2.1.5 Recipient OK")
        assert client.rcpt("nobody@example.com") == (550, b"5.1.1 no such user")
        assert client.rcpt("info@example.com") == (250, b"2.1.5 Recipient OK")


CONTENTS: Final = [
    pytest.param(HEAD + b"Hello.\r\n", id="plain"),
    pytest.param(HEAD + bytes(range(1, 10)) + bytes(range(14, 256)) + b"\r\n", id="all-octets-but-nul"),
    pytest.param(HEAD + b".\r\n..\r\n.a\r\nb.\r\n\r\n.\r\n\r\n \r\n", id="dots-and-blank-lines"),
    pytest.param(HEAD + b"body=%41&size=0&rcpt_to_0=x;y+z %%% %zz &&==\r\n" * 99, id="marks-of-forms"),
    pytest.param(HEAD + ("%07d two megabytes of lines, 8-bit: Grüße\r\n".encode() % 7) * 46_000, id="2-MB"),
]


@pytest.mark.parametrize("content", CONTENTS)
def test_a_mail_is_stored_octet_for_octet(house: House, content: bytes) -> None:
    before = house.stored()
    with house.client() as client:
        code, text = data(client, "info@example.com", content)
    assert code == 250, text
    (path,) = house.stored() - before
    assert text.decode() == f"2.0.0 OK: queued as {path.stem[:16]}"
    body = path.read_bytes()
    assert body.endswith(content)
    assert body[: -len(content)].startswith(b"Received: from ")
    assert body[: -len(content)].count(b"\r\n") == body[: -len(content)].count(b"\n") > 0


def test_the_same_mail_again_is_one_file(house: House) -> None:
    content = HEAD + b"Twice.\r\n"
    with house.client() as client:
        assert data(client, "info@example.com", content)[0] == 250
        stored = house.stored()
        assert data(client, "info@example.com", content)[0] == 250
    assert house.stored() == stored
    assert not list(house.place.mails.glob("*.tmp"))


def test_a_refusal_of_the_script_reaches_the_sender(house: House) -> None:
    with house.client() as client:
        assert data(client, "rejects@example.com") == (550, b"5.7.1 Not this one")


def test_error_output_is_logged_and_harms_no_verdict(house: House) -> None:
    with house.client() as client:
        assert data(client, "noisy@example.com")[0] == 250
    house.server.wait_for_log(r"script stderr.*noise of the script")


def test_a_mail_that_cannot_be_stored_is_451(house: House) -> None:
    """Said by the script, which found a file where its folder should be."""
    before = house.stored()
    away = house.place.mails.rename(house.place.folder / "away")
    house.place.mails.write_bytes(b"")
    try:
        with house.client() as client:
            code, text = data(client, "info@example.com")
    finally:
        house.place.mails.unlink()
        away.rename(house.place.mails)
    assert (code, text[:6]) == (451, b"4.3.0 ")
    assert house.stored() == before


@pytest.mark.parametrize("recipient", ["dies@example.com", "half@example.com"])
def test_a_script_that_is_killed_is_451_and_the_next_mail_is_taken(house: House, recipient: str) -> None:
    before = house.stored()
    with house.client() as client:
        reply = data(client, recipient)
        if recipient == "half@example.com" and house.kind.half is Half.COMPLETE:
            assert reply[0] == 250
        else:
            assert reply == TEMPFAIL
        assert house.stored() == before
        if house.kind.death is Death.FATAL and recipient == "dies@example.com":
            assert client.rset()[0] == 250
            assert client.mail("author@example.net")[0] == 250
            assert client.rcpt("info@example.com") == TEMPFAIL  # it is down, and says nothing worse of anybody
            assert client.rset()[0] == 250
        house.kind.revive(house.app)
        assert data(client, "info@example.com", HEAD + b"After " + recipient.encode() + b"\r\n")[0] == 250


def test_a_slow_script_is_451_in_time_and_delays_nobody(house: House) -> None:
    path = house.place.folder / "hasty.toml"
    path.write_text(configuration(house.app, save_seconds=SAVE_SECONDS))
    with (
        ServerProcess("serve", "-c", path.name, folder=house.place.folder) as hasty,
        smtplib.SMTP("127.0.0.1", hasty.port, local_hostname=HELO, timeout=SECONDS) as slow,
    ):
        began = time.monotonic()
        assert data(slow, "slow@example.com") == TEMPFAIL
        assert SAVE_SECONDS <= time.monotonic() - began < SLEEP_SECONDS / 2
        with house.client() as client:
            assert data(client, "info@example.com", HEAD + b"Quick.\r\n")[0] == 250
        assert slow.quit()[0] == 221
        assert hasty.stop() == 0


CLIENTS: Final = 6
MAILS_OF_EACH: Final = 8


def test_many_mails_in_a_row_from_several_clients_are_all_taken(house: House) -> None:
    """With ``keep_alive``, as is the default, and fewer connections than clients: what a server that closes kept ones
    behind its answer makes hard. No fault is injected, so nobody is told anything but 250.
    """
    before = house.stored()

    def send(number: int) -> list[tuple[int, bytes]]:
        with house.client() as client:
            return [
                data(client, "info@example.com", HEAD + f"Mail {mail} of client {number}.\r\n".encode())
                for mail in range(MAILS_OF_EACH)
            ]

    with ThreadPoolExecutor(CLIENTS) as threads:
        replies = [reply for several in threads.map(send, range(CLIENTS)) for reply in several]
    assert {code for code, _ in replies} == {250}, replies
    assert len(house.stored() - before) == CLIENTS * MAILS_OF_EACH


@pytest.mark.trio
async def test_connections_are_used_again_where_they_stay_and_where_not_no_request_is_lost(house: House) -> None:
    pool = Pool([parse_upstream_address(house.app.address)], PoolRules(max_connections=WORKERS - 1))

    async def ask_in_a_row(times: int) -> None:
        for _ in range(times):
            answer = await pool.request(Kind.SAVE, validation(house, "info@example.com"), None, seconds=SECONDS)
            assert answer.output == b"PASSED"

    async with trio.open_nursery() as nursery:
        nursery.start_soon(pool.run)
        async with trio.open_nursery() as clients:
            for _ in range(12):
                clients.start_soon(ask_in_a_row, 25)
        shown = pool.snapshot().upstreams[0]
        nursery.cancel_scope.cancel()
    assert not any(shown.failures.values())
    assert shown.requests == 300
    match house.kind.asked:
        case Asked.KEPT:
            assert shown.connections < 200
        case Asked.UNUSED:
            assert shown.connections > 250
        case Asked.CLOSED:
            assert shown.connections == 300
        case asked:
            assert_never(asked)


@dataclass(slots=True)
class Heard:
    """What came on the wire in answer to one request."""

    out: bytearray = field(default_factory=bytearray)
    err: bytearray = field(default_factory=bytearray)
    ended: list[RecordType] = field(default_factory=list)
    status: ProtocolStatus | None = None

    def take(self, event: ClientEvent) -> None:
        """Note an event; nothing else is expected of any server."""
        match event:
            case StdoutChunk(data=data):
                self.out += data
            case StderrChunk(data=data):
                self.err += data
            case StreamEnded(stream=stream):
                self.ended.append(stream)
            case RequestEnded(protocol_status=status):
                self.status = status
            case _:
                raise AssertionError(event)


def ask(sock: socket.socket, conn: ClientConnection, params: Sequence[NameValue], *, keep: bool) -> Heard:
    """One request without a body, read to its end."""
    heard = Heard()
    sock.sendall(conn.begin_request(1, params=params, keep_connection=keep) + conn.end_stdin(1))
    while heard.status is None:
        event = conn.next_event()
        if event is NEED_DATA:
            conn.receive_data(sock.recv(65_536))
        else:
            heard.take(event)
    return heard


def validation(house: House, recipient: str) -> list[NameValue]:
    """The parameters of a question whether a recipient is wanted."""
    fields = [("stage", "validate"), ("rcpt_to", recipient)]
    return get_parameters(house.app.script, fields, hostname="mx.example.com", remote_ip="192.0.2.1")


def test_the_connection_is_kept_when_asked_and_closed_when_not(house: House) -> None:
    """By our core alone: one request that asks for the connection, and on the same one another that does not."""
    conn = ClientConnection()
    with house.app.connect() as sock:
        for keep in (True,) if house.kind.asked is Asked.CLOSED else (True, False):
            heard = ask(sock, conn, validation(house, "info@example.com"), keep=keep)
            assert heard.status is ProtocolStatus.REQUEST_COMPLETE
            assert re.fullmatch(rb"(?:[^\r\n]+\r?\n)*\r?\nPASSED", heard.out)
            assert not heard.err
            assert (RecordType.STDOUT in heard.ended) is (house.kind.ending is Ending.EXPLICIT)
            assert conn.is_reusable is keep
        while (event := conn.next_event()) is NEED_DATA:
            conn.receive_data(sock.recv(65_536))
        assert event == ConnectionClosed(unfinished=())


@pytest.mark.parametrize(
    "house", [pytest.param(server, id=server.id) for server in SERVERS if server.id == "fcgisgi"], indirect=True
)
def test_a_server_that_multiplexes_answers_each_request_by_its_own_id(house: House) -> None:
    """The only one of them that serves requests side by side; see tests/fastcgi/test_multiplexing.py for our own."""
    recipients = {7: "info@example.com", 3: "nobody@example.com", 65_535: "postmaster@example.com"}
    heard = {request_id: Heard() for request_id in recipients}
    conn = ClientConnection()
    begun = [
        conn.begin_request(request_id, params=validation(house, recipient), keep_connection=True)
        for request_id, recipient in recipients.items()
    ]
    with house.app.connect() as sock:
        sock.sendall(b"".join([*begun, *map(conn.end_stdin, recipients)]))
        while conn.open_requests:
            match conn.next_event():
                case (
                    StdoutChunk(request_id=number) | StreamEnded(request_id=number) | RequestEnded(request_id=number)
                ) as event:
                    heard[number].take(event)
                case event:
                    assert event is NEED_DATA, event
                    conn.receive_data(sock.recv(65_536))
    assert {number: bytes(one.out).rpartition(b"\r\n\r\n")[2] for number, one in heard.items()} == {
        7: b"PASSED",
        3: b"550 5.1.1 no such user",
        65_535: b"PASSED",
    }


DEATHS: Final = {Death.REPLACED: "is replaced", Death.FATAL: "takes the server with it"}
CONNECTIONS: Final = {Asked.KEPT: "stays", Asked.UNUSED: "stays", Asked.CLOSED: "is closed"}


def test_the_page_says_how_they_differ() -> None:
    page = (ROOT / "docs" / "scripts.md").read_text()
    table = page.partition("\n### Application servers\n")[2].partition("\n|")[2].partition("\n\n")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    assert [(name, death, connection) for name, _, death, connection in rows] == [
        (server.id, DEATHS[server.death], CONNECTIONS[server.asked]) for server in SERVERS
    ]
