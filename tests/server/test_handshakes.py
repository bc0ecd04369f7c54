"""Handshakes that stall: whoever comes last goes first through, and the script learns who a client has proved to be."""

import hashlib
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest
import trio
import trustme
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.certificates import Authority
from tests.server.encrypted import READY, Hall, dialogue_over, tls_listener
from tests.support import Dialogue, Journal, ScriptedResponder, serving, settings
from trio_fcgimail.config import Settings, TcpAddress, TlsMode
from trio_fcgimail.server import Limit, Server
from trio_fcgimail.server.handshakes import FEWEST, Handshakes, most_handshakes

pytestmark = pytest.mark.trio

STORED: Final = b"250 2.0.0 OK: queued as "
MODES: Final = [pytest.param(TlsMode.STARTTLS, id="starttls"), pytest.param(TlsMode.IMPLICIT, id="implicit")]


async def test_the_one_that_has_been_under_way_longest_makes_room() -> None:
    handshakes = Handshakes(2)
    with handshakes.one_more() as first, handshakes.one_more() as second:
        with handshakes.one_more() as third:
            assert [scope.cancel_called for scope in (first, second, third)] == [True, False, False]
        with handshakes.one_more() as fourth:
            assert [scope.cancel_called for scope in (second, fourth)] == [False, False]
            with handshakes.one_more():
                assert [scope.cancel_called for scope in (second, fourth)] == [True, False]


async def test_after_every_so_many_their_garbage_is_collected() -> None:
    calls: list[None] = []
    so_far: list[int] = []
    handshakes = Handshakes(None, lambda: calls.append(None))
    for _ in range(200):
        with handshakes.one_more():
            pass
        so_far.append(len(calls))
    assert so_far == [number // 64 for number in range(1, 201)]


async def test_those_that_are_through_take_no_room() -> None:
    handshakes = Handshakes(1)
    for _ in range(3):
        with handshakes.one_more() as scope:
            pass
        assert not scope.cancel_called


async def test_without_a_number_nobody_makes_room() -> None:
    handshakes = Handshakes(None)
    with handshakes.one_more() as first, handshakes.one_more(), handshakes.one_more():
        assert not first.cancel_called


@pytest.mark.parametrize(
    ("toml", "most"),
    [
        pytest.param("", 500, id="default"),
        pytest.param("workers = 4", 125, id="a-share-of-each-process"),
        pytest.param("limits = { connections = 3 }", FEWEST, id="fewest"),
        pytest.param("limits = { connections = 0 }", None, id="any-number"),
    ],
)
async def test_how_many_there_may_be(toml: str, most: int | None) -> None:
    assert most_handshakes(settings(toml)) == most


def _settings(folder: Path, authority: Authority, tls: TlsMode) -> Settings:
    limits = "limits = { connections = 32, connections_per_ip = 0 }\n"
    return settings(f'{limits}{tls_listener(authority, tls)}[fastcgi]\nupstreams = ["unix:{folder}/fcgi"]\n')


@pytest.fixture
async def responder(nursery: trio.Nursery, tmp_path: Path) -> ScriptedResponder:
    responder = ScriptedResponder(nursery)
    await responder.listen(tmp_path / "fcgi")
    return responder


async def _begin(server: Server, address: object, tls: TlsMode) -> trio.SocketStream:
    """A client that has come as far as the handshake."""
    assert isinstance(address, TcpAddress)
    stream = await trio.open_tcp_stream(address.host, address.port)
    if tls is TlsMode.STARTTLS:
        client = Dialogue(stream)
        await client.hello()
        assert await client.ask(b"STARTTLS") == READY
    return stream


@pytest.mark.parametrize("tls", MODES)
async def test_a_crowd_that_stalls_leaves_others_their_room(
    responder: ScriptedResponder, journal: Journal, authority: Authority, tmp_path: Path, tls: TlsMode
) -> None:
    async with serving(_settings(tmp_path, authority, tls), journal) as house:
        stalled = [await _begin(house.server, house.addresses[0], tls) for _ in range(FEWEST + 8)]
        stream = await _begin(house.server, house.addresses[0], tls)
        encrypted = authority.client(stream)
        await encrypted.do_handshake()
        client = dialogue_over(encrypted)
        if tls is TlsMode.IMPLICIT:
            await client.hello()
        else:
            await client.ask(b"EHLO client.example")
        assert (await client.mail()).startswith(STORED)
        ended = [await _is_over(stream) for stream in stalled]
        assert ended == [True] * 9 + [False] * (FEWEST - 1)
        assert house.server.limits_hit[Limit.TLS_HANDSHAKE_SECONDS] == 9
        problems = {entry["problem"] for entry in journal.entries("no TLS")}
        assert problems == {"TLS handshake cut short, as too many others began"}
        for one in stalled:
            await one.aclose()
        await client.close()


async def _is_over(stream: trio.SocketStream) -> bool:
    with trio.move_on_after(0.02):
        try:
            return await stream.receive_some() == b""
        except trio.BrokenResourceError:
            return True
    return False


# Who a client is


OpenHall = Callable[..., Hall]


@pytest.fixture
async def hall(nursery: trio.Nursery, journal: Journal, authority: Authority) -> OpenHall:
    def build(tls: TlsMode, toml: str) -> Hall:
        return Hall(nursery, journal, authority, tls, toml)

    return build


@pytest.mark.parametrize("tls", MODES)
async def test_the_script_is_told_of_a_certificate_that_was_verified(
    autojump_clock: MockClock, hall: OpenHall, authority: Authority, tls: TlsMode
) -> None:
    toml = f'client_certificates = "optional"\nclient_ca = "{authority.ca_file}"\n'
    house = hall(tls, toml + '[scripts]\nvalidate = "/srv/mail/validate.php"')
    context = authority.trusting()
    shown = authority.issue_to("sender.example", common_name="Zoe, Example")
    shown.configure_cert(context)
    client, _ = await house.guest(context)
    assert (await client.mail()).startswith(STORED)
    der = ssl.PEM_cert_to_DER_cert(shown.cert_chain_pems[0].bytes().decode())
    for request in house.scripts.requests:
        subject = request.fields["tls_client_subject"]
        assert subject.startswith("CN=Zoe\\, Example,OU=")
        assert request.fields["tls_client_sha256"] == hashlib.sha256(der).hexdigest()
    assert len(house.scripts.requests) == 2


async def test_who_shows_none_is_nobody(autojump_clock: MockClock, hall: OpenHall, authority: Authority) -> None:
    house = hall(TlsMode.STARTTLS, f'client_certificates = "optional"\nclient_ca = "{authority.ca_file}"\n')
    client, _ = await house.guest()
    assert (await client.mail()).startswith(STORED)
    assert not [name for name in house.scripts.requests[0].fields if name.startswith("tls_client")]


@pytest.mark.parametrize(
    ("toml", "authority_of_the_client"),
    [
        pytest.param('client_certificates = "required"', None, id="none-where-one-is-required"),
        pytest.param('client_certificates = "optional"', trustme.CA(), id="of-another-authority"),
    ],
)
async def test_who_cannot_prove_it_gets_no_word(
    autojump_clock: MockClock,
    hall: OpenHall,
    authority: Authority,
    journal: Journal,
    toml: str,
    authority_of_the_client: trustme.CA | None,
) -> None:
    house = hall(TlsMode.IMPLICIT, f'{toml}\nclient_ca = "{authority.ca_file}"\n')
    context = authority.trusting()
    context.maximum_version = ssl.TLSVersion.TLSv1_2  # where it is told within the handshake
    if authority_of_the_client is not None:
        authority_of_the_client.issue_cert("sender.example").configure_cert(context)
    visit = await house.visit()
    with pytest.raises(trio.BrokenResourceError):
        await visit.encrypt(context)
    await wait_all_tasks_blocked()
    assert len(journal.entries("no TLS")) == 1
    assert house.scripts.requests == []
