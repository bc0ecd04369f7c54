"""The main job: mail from clients that others wrote, through the real server, into scripts on a real php-fpm."""

import re
import smtplib
import socket
from collections.abc import Iterator
from operator import attrgetter
from pathlib import Path
from typing import Final

import pytest

from tests.clients import CLIENTS, HELO, SECONDS, Client, Feature, Mail, Route, by_smtplib, require, run_client
from tests.mailroom import Mailroom, Stored, as_sent, digest, to_lf
from tests.phpfpm import PhpFpm, php_fpm
from tests.server_process import ServerProcess

HOSTNAME: Final = "mx.example.com"
#: A complete one: Postfix would add what is missing.
HEAD: Final = (
    b"From: author@example.net\r\nTo: info@example.com\r\nSubject: =?utf-8?q?Gr=C3=BC=C3=9Fe?= to you\r\n"
    b"Date: Mon, 2 Nov 2026 10:00:00 +0000\r\nMessage-ID: <1@example.net>\r\n\r\n"
)
SUBJECT: Final = "Grüße to you"

KNOWN: Final = (
    "info@example.com",
    "second@example.com",
    "save-dies@example.com",
    "save-is-silent@example.com",
    "save-refuses@example.com",
)


@pytest.fixture(scope="module")
def php() -> Iterator[PhpFpm]:
    yield from php_fpm(children=4, env={"FCGIMAIL_RCPTS": " ".join(KNOWN)})


@pytest.fixture(scope="module")
def room(php: PhpFpm) -> Mailroom:
    return Mailroom.open(php)


@pytest.fixture(scope="module")
def server(room: Mailroom, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("server")
    (folder / "fcgimail.toml").write_text(f"""
hostname = "{HOSTNAME}"
allowed_hosts = ["example.com"]
[[listeners]]
address = "127.0.0.1:0"
[limits]
connections_per_ip = 0
[fastcgi]
upstreams = ["{room.php.address}"]
max_connections = 4
[scripts]
validate = "{room.validate}"
save = "{room.save}"
""")
    with ServerProcess("serve", "-c", "fcgimail.toml", folder=folder) as server:
        yield server
        assert server.stop() == 0


MAILS: Final = [
    pytest.param(b"Hello.\r\n", id="plain"),
    pytest.param(b"All of them: " + bytes(range(0x80, 0x100)) + b"\r\n" + "Grüße\r\n".encode(), id="8-bit"),
    pytest.param(b".\r\n..\r\n.a\r\n...\r\nb.\r\n\r\n.\r\nQUIT\r\n.\r\n", id="dots-at-line-starts"),
    pytest.param(b"a" * 998 + b"\r\n" + b"b=%26&c+d;" * 2_000 + b"\r\n", id="long-lines"),
    pytest.param(b"\r\n\r\n \r\n\t\r\n\r\n", id="blank-lines-at-both-ends"),
]


def _assert_is(stored: Stored, mail: Mail, greeting: str = "ESMTP") -> None:
    trace, rest = stored.fields["body"][: -len(to_lf(mail.content))], stored.fields["body"][-len(to_lf(mail.content)) :]
    assert rest == to_lf(mail.content)
    one = f"\n\tfor <{mail.recipients[0]}>" if len(mail.recipients) == 1 else ""
    assert re.fullmatch(
        rf"Received: from {re.escape(HELO)} \(\[127\.0\.0\.1\]\)\n"
        rf"\tby {re.escape(HOSTNAME)} with {greeting} id {stored.text('queue_id')}{re.escape(one)};\n"
        r"\t[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d [+-]\d{4}\n",
        trace.decode(),
    )
    assert stored.file == stored.fields["body"]
    expected = {
        "mail_from": mail.sender,
        "helo": HELO,
        "subject": SUBJECT,
        "size": str(len(stored.fields["body"])),
        "mail_digest": digest(mail),
        "with": greeting,
        "protocol": "smtp",
        "remote_ip": "127.0.0.1",
        "tls_on": "false",
        "stage": "save",
    } | {f"rcpt_to_{number}": one for number, one in enumerate(mail.recipients)}
    assert {name: stored.text(name) for name in expected} == expected
    assert f"rcpt_to_{len(mail.recipients)}" not in stored.fields
    assert re.fullmatch(r"[0-9a-f]{23,}", stored.text("queue_id"))


@pytest.mark.parametrize("content", MAILS)
@pytest.mark.parametrize("client", CLIENTS, ids=attrgetter("name.value"))
def test_the_script_has_the_mail_byte_for_byte(
    server: ServerProcess, room: Mailroom, tmp_path: Path, client: Client, content: bytes
) -> None:
    mail = Mail(HEAD + content)
    outcome = client.send(Route(server.port), mail, tmp_path)
    assert outcome.sent, outcome.said
    (stored,) = room.taken()
    _assert_is(stored, as_sent(client, mail, stored), client.greeting)


@pytest.mark.parametrize(
    "client", [one for one in CLIENTS if one.reason_against(Feature.SEVERAL) is None], ids=attrgetter("name.value")
)
def test_one_mail_for_several_recipients_is_one_request(
    server: ServerProcess, room: Mailroom, tmp_path: Path, client: Client
) -> None:
    mail = Mail(HEAD + b"Hello.\r\n", recipients=("second@example.com", "info@example.com"))
    outcome = client.send(Route(server.port), mail, tmp_path)
    assert outcome.sent, outcome.said
    (stored,) = room.taken()
    _assert_is(stored, as_sent(client, mail, stored), client.greeting)


@pytest.mark.parametrize(
    ("recipient", "reply"),
    [
        pytest.param("nobody@example.com", "550 5.1.1", id="the-script-refuses"),
        pytest.param("info@elsewhere.example", "550 5.7.1", id="not-our-domain"),
        pytest.param("check-dies@example.com", "451 4.3.0", id="the-check-dies"),
        pytest.param("check-is-silent@example.com", "451 4.3.0", id="the-check-says-nothing"),
        pytest.param("save-dies@example.com", "451 4.3.0", id="save-dies"),
        pytest.param("save-is-silent@example.com", "451 4.3.0", id="save-says-nothing"),
        pytest.param("save-refuses@example.com", "554 5.6.0", id="save-refuses"),
    ],
)
@pytest.mark.parametrize("client", CLIENTS, ids=attrgetter("name.value"))
def test_the_client_hears_what_the_script_says_and_a_failure_is_451(
    server: ServerProcess, room: Mailroom, tmp_path: Path, client: Client, recipient: str, reply: str
) -> None:
    outcome = client.send(Route(server.port), Mail(HEAD + b"Hello.\r\n", recipients=(recipient,)), tmp_path)
    assert not outcome.sent
    code, enhanced = reply.split()
    assert re.search(rf"{code}\D{{1,4}}{re.escape(enhanced)} ", outcome.said), outcome.said
    assert all(stored.file is None for stored in room.taken())


def test_a_refused_recipient_does_not_take_the_others_along(
    server: ServerProcess, room: Mailroom, tmp_path: Path
) -> None:
    mail = Mail(HEAD + b"Hello.\r\n")
    with smtplib.SMTP("127.0.0.1", server.port, local_hostname=HELO, timeout=SECONDS) as client:
        refused = client.sendmail(mail.sender, ["nobody@example.com", *mail.recipients], mail.content)
    assert refused == {"nobody@example.com": (550, b"5.1.1 no such user")}
    (stored,) = room.taken()
    _assert_is(stored, mail)


def test_a_bounce_and_an_old_greeting_are_told_to_the_script(server: ServerProcess, room: Mailroom) -> None:
    mail = Mail(HEAD + b"Sorry.\r\n", sender="")
    with smtplib.SMTP("127.0.0.1", server.port, local_hostname=HELO, timeout=SECONDS) as client:
        client.helo(HELO)
        client.sendmail("<>", mail.recipients, mail.content)
    (stored,) = room.taken()
    _assert_is(stored, mail, greeting="SMTP")


def test_without_php_it_is_451_and_with_it_again_250(server: ServerProcess, room: Mailroom, tmp_path: Path) -> None:
    mail = Mail(HEAD + b"Hello again.\r\n")
    room.php.stop()
    try:
        outcome = by_smtplib(Route(server.port), mail, tmp_path)
        assert not outcome.sent
        assert "451" in outcome.said
    finally:
        room.php.start()
    assert room.taken() == []
    assert by_smtplib(Route(server.port), mail, tmp_path).sent
    (stored,) = room.taken()
    _assert_is(stored, mail)


def test_php_stopped_between_rcpt_and_the_dot_is_451_in_the_same_session_250_later(
    server: ServerProcess, room: Mailroom
) -> None:
    mail = Mail(HEAD + b"Hello once more.\r\n")
    with smtplib.SMTP("127.0.0.1", server.port, local_hostname=HELO, timeout=SECONDS) as client:
        client.ehlo()
        assert client.mail(mail.sender)[0] == 250
        assert client.rcpt(mail.recipients[0])[0] == 250
        room.php.stop()
        try:
            assert client.data(mail.content)[0] == 451
        finally:
            room.php.start()
        assert client.sendmail(mail.sender, mail.recipients, mail.content) == {}
    (stored,) = room.taken()
    _assert_is(stored, mail)


@pytest.mark.parametrize("again", [pytest.param((), id="new-connections"), pytest.param(("-d",), id="kept-ones")])
def test_hundreds_of_mails_in_parallel_sessions_are_all_stored_and_none_doubled(
    server: ServerProcess, room: Mailroom, again: tuple[str, ...]
) -> None:
    program = require("smtp-source", "postfix")
    load = ("-s", "10", "-m", "300", "-l", "3000", *again)
    envelope = ("-f", "author@example.net", "-t", "info@example.com", "-M", HELO)
    outcome = run_client([program, "-4", *load, *envelope, f"127.0.0.1:{server.port}"])
    assert outcome.sent, outcome.said
    stored = room.taken()
    assert len(stored) == 300
    assert len({one.text("queue_id") for one in stored}) == 300
    own_ids = {re.search(rb"^Message-Id: (.*)$", one.fields["body"], re.MULTILINE) for one in stored}
    assert len({found[1] for found in own_ids if found is not None}) == 300
    assert all(one.file == one.fields["body"] for one in stored)


def _talk(port: int, written: bytes) -> bytes:
    """Write all at once, then read to the end."""
    with socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as sock:
        sock.sendall(written)
        with sock.makefile("rb") as stream:
            return stream.read()


def test_a_whole_session_in_one_write_is_answered_in_order(server: ServerProcess, room: Mailroom) -> None:
    first, second = Mail(HEAD + b"One.\r\n"), Mail(HEAD + b"Two.\r\n.\r\n", recipients=("second@example.com",))
    replies = _talk(
        server.port,
        b"EHLO client.example.net\r\n"
        b"MAIL FROM:<author@example.net>\r\nRCPT TO:<nobody@example.com>\r\nRCPT TO:<info@example.com>\r\nDATA\r\n"
        + first.content
        + b".\r\nMAIL FROM:<author@example.net> BODY=8BITMIME\r\nRCPT TO:<second@example.com>\r\nDATA\r\n"
        + second.content.replace(b"\r\n.", b"\r\n..")
        + b".\r\nNOOP\r\nQUIT\r\n",
    )
    codes = [int(line[:3]) for line in replies.splitlines() if line[3:4] == b" "]
    assert codes == [220, 250, 250, 550, 250, 354, 250, 250, 250, 354, 250, 250, 221]
    stored = {one.text("rcpt_to_0"): one for one in room.taken()}
    _assert_is(stored["info@example.com"], first)
    _assert_is(stored["second@example.com"], second)
    assert stored["second@example.com"].text("body_type") == "8BITMIME"


def test_the_same_mail_twice_has_one_digest_and_two_queue_ids(
    server: ServerProcess, room: Mailroom, tmp_path: Path
) -> None:
    mail = Mail(HEAD + b"Twice.\r\n")
    assert by_smtplib(Route(server.port), mail, tmp_path).sent
    assert by_smtplib(Route(server.port), mail, tmp_path).sent
    first, second = room.taken()
    assert first.text("mail_digest") == second.text("mail_digest")
    assert first.text("queue_id") != second.text("queue_id")


def test_a_client_that_stops_within_its_mail_holds_up_nobody(server: ServerProcess, room: Mailroom) -> None:
    with smtplib.SMTP("127.0.0.1", server.port, local_hostname=HELO, timeout=SECONDS) as slow:
        slow.ehlo()
        slow.mail("author@example.net")
        slow.rcpt("info@example.com")
        slow.putcmd("data")
        assert slow.getreply()[0] == 354
        slow.send(HEAD)
        with smtplib.SMTP("127.0.0.1", server.port, local_hostname=HELO, timeout=SECONDS) as quick:
            quick.sendmail("author@example.net", "second@example.com", HEAD + b"Quick.\r\n")
        (stored,) = room.taken()
        assert stored.text("rcpt_to_0") == "second@example.com"
        slow.send(b"Slow.\r\n.\r\n")
        assert slow.getreply()[0] == 250
    (stored,) = room.taken()
    _assert_is(stored, Mail(HEAD + b"Slow.\r\n"))
