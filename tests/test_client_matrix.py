"""Each client that others wrote sends each kind of mail that it can, over each channel and with each login that it can.

Real server, real php-fpm, the example script; what arrives is compared octet by octet. tests/clients/table.py says who
can do what, docs/clients.md shows it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, assert_never

import pytest
import trustme

from tests.clients import (
    CLIENTS,
    HELO,
    OF_CHANNEL,
    OF_MECHANISM,
    Channel,
    Client,
    ClientName,
    Feature,
    Login,
    Mail,
    Mechanism,
    Route,
    by_smtplib,
)
from tests.clients.page import PAGE, embed
from tests.clients.table import CANNOT
from tests.mailroom import Mailroom, as_sent, digest
from tests.phpfpm import open_folder, php_fpm
from tests.server_process import ServerProcess, free_port

HOSTNAME: Final = "mx.example.com"
USERNAME: Final = "author@example.net"
#: With what forms, base64 and shells are careful about.
PASSWORD: Final = "pass word+%26=&'"
KNOWN: Final = ("info@example.com", "zoë@example.com")
AUTH: Final = f"""<?php
$known = ($_POST['username'] ?? '') === '{USERNAME}' && ($_POST['password'] ?? '') === "{PASSWORD}";
echo $_SERVER['REQUEST_METHOD'] === 'POST' && $known ? 'PASSED' : '535 5.7.8 no';
"""
#: Complete, as a client that makes up a header of its own would have to be accounted for.
HEAD: Final = (
    b"From: author@example.net\r\nTo: info@example.com\r\nSubject: Hello\r\n"
    b"Date: Mon, 2 Nov 2026 10:00:00 +0000\r\nMessage-ID: <1@example.net>\r\n"
)
#: Lines near the limit: msmtp encrypts each line by itself, and each such record is a turn of the server's loop. Short
#: lines would take half a minute.
_LINE: Final = b"%07d of twenty million octets" + b", with the signs of forms & = + ; %% \xc2\xb5" * 20 + b"\r\n.\r\n"
_LARGE: Final = b"".join(_LINE % number for number in range(20_000_000 // len(_LINE % 0)))

MAILS: Final[Mapping[Feature, Mail]] = {
    Feature.PLAIN_MAIL: Mail(HEAD + b"\r\nHello.\r\n.\r\n..\r\n.a\r\n\r\n.\r\n"),
    Feature.EIGHT_BIT: Mail(HEAD + b"\r\nAll: " + bytes(range(0x80, 0x100)) + "\r\nGrüße\r\n".encode()),
    Feature.SMTPUTF8: Mail(
        "From: Jürgen <jürgen@example.net>\r\nTo: Zoë <zoë@example.com>\r\nSubject: Grüße\r\n".encode()
        + b"Date: Mon, 2 Nov 2026 10:00:00 +0000\r\nMessage-ID: <1@example.net>\r\n\r\n"
        + "Schöne Grüße\r\n".encode(),
        recipients=("zoë@example.com",),
        sender="jürgen@example.net",
    ),
    Feature.LARGE: Mail(HEAD + b"\r\n" + _LARGE),
}


@dataclass(frozen=True, slots=True)
class House:
    """A running server and the ways to it.

    Attributes:
        with_login: To a listener of STARTTLS that takes mail of those only who log in.
    """

    room: Mailroom
    routes: Mapping[Channel, Route]
    with_login: Route


def _listener(route: Route, tls: str) -> str:
    match route.channel:
        case Channel.LMTP:
            return f'[[listeners]]\naddress = "unix:{route.socket}"\nmode = "0666"\nprotocol = "lmtp"\n'
        case Channel.PLAIN:
            return f'[[listeners]]\naddress = "127.0.0.1:{route.port}"\n'
        case Channel.STARTTLS:
            return f'[[listeners]]\naddress = "127.0.0.1:{route.port}"\ntls = "starttls"\n{tls}'
        case Channel.IMPLICIT:
            return f'[[listeners]]\naddress = "127.0.0.1:{route.port}"\ntls = "implicit"\n{tls}'
        case other:
            assert_never(other)


def _certificate(folder: Path) -> str:
    """Settings of a listener with TLS; ``authority.pem`` in the folder is whom its clients are to trust."""
    authority = trustme.CA()
    certificate = authority.issue_cert(HOSTNAME, "127.0.0.1")
    authority.cert_pem.write_to_path(folder / "authority.pem")
    chain, key = folder / "certificate.pem", folder / "key.pem"
    for number, part in enumerate(certificate.cert_chain_pems):
        part.write_to_path(chain, append=number > 0)
    certificate.private_key_pem.write_to_path(key)
    return f'certificate = "{chain}"\nprivate_key = "{key}"\n'


#: What takes the longest goes where the octets take another way through the server, not by each listener.
ONLY_BY: Final[Mapping[Feature, frozenset[Channel]]] = {Feature.LARGE: frozenset({Channel.PLAIN, Channel.STARTTLS})}


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    with open_folder() as folder:
        for php in php_fpm(children=2, env={"FCGIMAIL_RCPTS": " ".join(KNOWN)}):
            room = Mailroom.open(php)
            tls = _certificate(folder)
            away = Route(socket=folder / "lmtp.sock", authority=folder / "authority.pem", server_name=HOSTNAME)
            routes = {channel: replace(away, channel=channel, port=free_port()) for channel in Channel}
            with_login = replace(away, channel=Channel.STARTTLS, port=free_port())
            listeners = [_listener(route, tls) for route in routes.values()]
            listeners.append(_listener(with_login, tls) + "require_auth = true\n")
            scripts = f'[scripts]\nvalidate = "{room.validate}"\nsave = "{room.save}"\n'
            scripts += f'auth = "{php.script("auth.php", AUTH)}"\n'
            (folder / "fcgimail.toml").write_text(
                f'hostname = "{HOSTNAME}"\nallowed_hosts = ["example.com"]\n'
                + "".join(listeners)
                + f'[fastcgi]\nupstreams = ["{php.address}"]\nmax_connections = 2\n'
                + scripts
            )
            with ServerProcess("serve", "-c", "fcgimail.toml", folder=folder) as server:
                for listener in (*routes.values(), with_login):
                    address = listener.socket if listener.channel is Channel.LMTP else listener.port
                    server.wait_for_log(rf"\blistening\b.*{address}")
                yield House(room, routes, with_login)
                assert server.stop() == 0


def _with(route: Route, mail: Mail, client: Client) -> str:
    """The keyword of RFC 3848 and RFC 6531 that the mail has come with."""
    if route.channel is Channel.LMTP:
        return "UTF8LMTP" if mail.has_foreign_address else "LMTP"
    keyword = "UTF8SMTP" if mail.has_foreign_address else client.greeting
    keyword += "S" if route.channel in {Channel.STARTTLS, Channel.IMPLICIT} else ""
    return keyword if route.login is None else f"{keyword}A"


def _assert_arrives(house: House, client: Client, route: Route, mail: Mail, folder: Path) -> None:
    outcome = client.send(route, mail, folder)
    assert outcome.sent, outcome.said
    (stored,) = house.room.taken()
    sent = as_sent(client, mail, stored)
    assert stored.file == stored.fields["body"]
    expected = {
        "mail_from": mail.sender,
        "rcpt_to_0": mail.recipients[0],
        "rcpt_count": "1",
        "helo": HELO,
        "size": str(len(stored.fields["body"])),
        "mail_digest": digest(sent),
        "with": _with(route, mail, client),
        "protocol": "lmtp" if route.channel is Channel.LMTP else "smtp",
        "remote_ip": "" if route.channel is Channel.LMTP else "127.0.0.1",
        "smtputf8": "true" if mail.has_foreign_address else "false",
        "tls_on": "true" if route.channel in {Channel.STARTTLS, Channel.IMPLICIT} else "false",
    } | ({} if route.login is None else {"auth_user": route.login.username})
    assert {name: stored.text(name) for name in expected} == expected


@pytest.mark.parametrize(
    ("client", "channel", "kind"),
    [
        pytest.param(client, channel, kind, id=f"{client.name.value}-{channel.name}-{kind.name}")
        for client in CLIENTS
        for channel in Channel
        for kind in MAILS
        if client.reason_against(kind, *OF_CHANNEL[channel]) is None and channel in ONLY_BY.get(kind, Channel)
    ],
)
def test_what_a_client_can_send_arrives(
    house: House, tmp_path: Path, client: Client, channel: Channel, kind: Feature
) -> None:
    _assert_arrives(house, client, house.routes[channel], MAILS[kind], tmp_path)


@pytest.mark.parametrize(
    ("client", "kind"),
    [
        pytest.param(client, kind, id=f"{client.name.value}-{kind.name}")
        for client in CLIENTS
        for kind in MAILS
        if client.reason_against(kind) is not None
    ],
)
def test_what_a_client_cannot_send_does_not_arrive(house: House, tmp_path: Path, client: Client, kind: Feature) -> None:
    outcome = client.send(house.routes[Channel.PLAIN], MAILS[kind], tmp_path)
    assert not outcome.sent, "it can: say so in tests/clients/table.py"
    assert "553" in outcome.said
    assert "5.6.7" in outcome.said
    assert house.room.taken() == []


LOGINS: Final = [
    pytest.param(client, mechanism, id=f"{client.name.value}-{mechanism.name}")
    for client in CLIENTS
    for mechanism in Mechanism
    if client.reason_against(OF_MECHANISM[mechanism], Feature.STARTTLS) is None
]


@pytest.mark.parametrize(("client", "mechanism"), LOGINS)
def test_who_logs_in_may_send(house: House, tmp_path: Path, client: Client, mechanism: Mechanism) -> None:
    route = replace(house.with_login, login=Login(mechanism, USERNAME, PASSWORD))
    _assert_arrives(house, client, route, MAILS[Feature.PLAIN_MAIL], tmp_path)


@pytest.mark.parametrize(("client", "mechanism"), LOGINS)
def test_who_has_the_wrong_password_may_not(house: House, tmp_path: Path, client: Client, mechanism: Mechanism) -> None:
    route = replace(house.with_login, login=Login(mechanism, USERNAME, "wrong"))
    outcome = client.send(route, MAILS[Feature.PLAIN_MAIL], tmp_path)
    assert not outcome.sent
    assert "535" in outcome.said
    assert house.room.taken() == []


def test_who_does_not_log_in_may_not(house: House, tmp_path: Path) -> None:
    outcome = by_smtplib(house.with_login, MAILS[Feature.PLAIN_MAIL], tmp_path)
    assert not outcome.sent
    assert "530" in outcome.said
    assert house.room.taken() == []


def test_every_client_has_a_row_and_every_mail_a_size_that_counts() -> None:
    assert [client.name for client in CLIENTS] == list(ClientName)
    assert set(CANNOT) == set(ClientName)
    assert abs(len(MAILS[Feature.LARGE].content) - 20_000_000) < 1_000


def test_the_page_shows_the_table() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page == embed(page), "run: python -m tests.clients.page --write"
