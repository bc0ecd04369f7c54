"""What clients do. Every way that a mail can take through the server is one of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Final

import trio

from tests.trust.cancellation.client import Client, GoneError, content
from tests.trust.cancellation.responder import Manner
from tests.trust.cancellation.world import Scenario, Target, World

_LISTENER: Final = 'scripts.validate = "/srv/mail/validate.php"\n[[listeners]]\naddress = "unix:FOLDER/smtp"\n'
_FASTCGI: Final = 'upstreams = ["unix:FOLDER/fcgi"]\n'
_PLAIN: Final = f"{_LISTENER}[fastcgi]\n{_FASTCGI}"
_MAILDIR: Final = 'chain.validate = []\nmaildir.path = "FOLDER/mail/[user]"\nmaildir.user_map = { bob = "" }\n'
_KEEPING: Final = f"{_PLAIN}clean_eof_means_unexecuted = true\n"
_LINE: Final = b"x" * 78 + b"\r\n"
_QUEUE_ID: Final = re.compile(rb"\sid (\S+?)[\s;]")
_PROXY: Final = b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 25\r\n"
_LOGIN: Final = b"AGEAYg=="  # the user a, the password b (RFC 4616 2)


async def _helo(world: World, client: Client) -> None:
    await client.hello(b"HELO")
    await client.mail("plain")
    await client.quit()


async def _pipelined(world: World, client: Client) -> None:
    await client.hello()
    group = b"MAIL FROM:<a@client.example>\r\nRCPT TO:<b@example.com>\r\nRCPT TO:<c@example.com>\r\nDATA\r\n"
    await client.send(group)
    for code in (b"250", b"250", b"250", b"354"):
        await client.reply(code)
    await client.send(content("one", b"x\r\n") + b".\r\n" + group)
    await client.outcome()
    for code in (b"250", b"250", b"250", b"354"):
        await client.reply(code)
    await client.send(content("two", b"y\r\n") + b".\r\nQUIT\r\n")
    await client.outcome()
    await client.reply(b"221")


async def _chunks(world: World, client: Client) -> None:
    await client.hello()
    await client.begin("b", "c")
    for chunk in (content("chunks", b""), _LINE * 100, _LINE):
        await client.ask(b"BDAT %d\r\n" % len(chunk) + chunk[:-2], b"250")
    await client.send(b"BDAT 7 LAST\r\nWell?\r\n")
    await client.outcome()
    await client.quit()


async def _large(world: World, client: Client) -> None:
    await client.hello()
    await client.mail("large", body=_LINE * 8000)
    await client.quit()


async def _tls(world: World, client: Client) -> None:
    await client.hello()
    await client.start_tls(world.authority.trusting())
    await client.mail("secret")
    await client.quit()


async def _implicit(world: World, client: Client) -> None:
    await client.handshake(world.authority.trusting())
    await client.hello()
    await client.mail("secret")
    await client.quit()


async def _login(world: World, client: Client) -> None:
    await client.hello()
    await client.ask(b"AUTH PLAIN", b"334")
    await client.ask(_LOGIN, b"235")
    await client.mail("from a")
    await client.quit()


async def _lmtp(world: World, client: Client) -> None:
    await client.hello(b"LHLO")
    await client.mail("local", "b", "c", "d", replies=3)
    await client.quit()


async def _hurry(world: World, client: Client) -> None:
    """So many questions at the same moment that the pool expects more of them, and keeps connections."""
    await client.hello()
    await client.begin(*(f"user{number}" for number in range(26)))


async def _two_mails(world: World, client: Client) -> None:
    await client.hello()
    await client.mail("one")
    await client.mail("two")
    await client.quit()


async def _three_mails(world: World, client: Client) -> None:
    """More than one for each connection, so that not each save is the last request of one."""
    await client.hello()
    for name in ("one", "two", "three"):
        await client.mail(name)
    await client.quit()


async def _proxied(world: World, client: Client) -> None:
    await client.send(_PROXY[:20])
    await trio.sleep(0.1)
    await client.send(_PROXY[20:])
    await _helo(world, client)


async def _patient(world: World, client: Client) -> None:
    await trio.sleep(2)  # which the server is silent for
    await client.hello()
    await client.mail("patient")
    await client.quit()


async def _introduced(world: World, client: Client) -> None:
    await client.hello()
    await client.ask(b"XCLIENT ADDR=192.0.2.7 NAME=other.example", b"220")
    await client.ask(b"EHLO other.example")
    await client.mail("of another")
    await client.quit()


async def _one_too_many(world: World, client: Client) -> None:
    await client.hello()
    other = await world.dial()
    with suppress(GoneError):
        await other.reply(b"220")
    await client.mail("of the first")
    await client.quit()


async def _unannounced(world: World, client: Client) -> None:
    """The proxy has forgotten its header; then another one comes that has not."""
    with suppress(GoneError):
        await client.ask(b"EHLO client.example")
    await _proxied(world, await world.dial())


async def _crowd(world: World, client: Client) -> None:
    """More at a time than there are connections to the application server: all but one wait."""

    async def visit(name: str) -> None:
        with suppress(GoneError):
            other = await world.dial()
            await other.hello()
            await other.mail(name)
            await other.quit()

    async with trio.open_nursery() as nursery:
        for name in ("two", "three"):
            nursery.start_soon(visit, name)
        with suppress(GoneError):
            await _helo(world, client)


async def _stopped(world: World, client: Client) -> None:
    """The server is told to stop while the mail is under way."""
    await client.hello()
    idle = await world.dial()
    await idle.hello()
    await client.begin()
    world.service.stop()
    await client.ask(b"DATA", b"354")
    await client.send(content("last", b"x\r\n") + b".\r\n")
    await client.outcome()
    await client.reply(b"421")


async def _cut(world: World, client: Client) -> None:
    """The server is told to end now, while the verdict is awaited."""
    await client.hello()
    await client.begin()
    await client.ask(b"DATA", b"354")
    await client.send(content("cut", b"x\r\n") + b".\r\n")
    await trio.sleep(0.5)  # half of what the application server takes
    world.service.cut()
    await client.outcome()


async def _reloaded(world: World, client: Client) -> None:
    """Other settings while the mail is under way."""
    await client.hello()
    await client.begin()
    settings = world.settings
    await world.call(partial(world.service.reload, replace(settings, limits=replace(settings.limits, recipients=7))))
    await client.ask(b"DATA", b"354")
    await client.send(content("before", b"x\r\n") + b".\r\n")
    await client.outcome()
    await client.drain()
    other = await world.dial()
    await other.hello()
    await other.mail("behind")
    await other.quit()


def _in_maildirs(world: World) -> Iterator[str]:
    for path in (world.folder / "mail").glob("*/new/*"):
        found = _QUEUE_ID.search(path.read_bytes())
        assert found is not None, "the trace header names it"
        yield found[1].decode()


SCENARIOS: Final = (
    Scenario(id="plain", act=_helo, toml=_PLAIN),
    Scenario(id="pipelined", act=_pipelined, toml=_PLAIN),
    Scenario(id="chunks", act=_chunks, toml=_PLAIN),
    Scenario(id="large", act=_large, toml=f"spool.memory_octets = 65536\n{_PLAIN}", has_threads=True),
    Scenario(
        id="tls", act=_tls, toml=f'{_LISTENER}tls = "starttls"\ncertificate = "CERTIFICATE"\n[fastcgi]\n{_FASTCGI}'
    ),
    Scenario(
        id="implicit-tls",
        act=_implicit,
        toml=f'{_LISTENER}tls = "implicit"\ncertificate = "CERTIFICATE"\n[fastcgi]\n{_FASTCGI}',
    ),
    Scenario(
        id="login",
        act=_login,
        toml=f'scripts.auth = "/srv/mail/auth.php"\n{_LISTENER}auth_without_tls = true\n[fastcgi]\n{_FASTCGI}',
    ),
    Scenario(id="lmtp", act=_lmtp, toml=f'{_LISTENER}protocol = "lmtp"\n[fastcgi]\n{_FASTCGI}'),
    Scenario(
        id="every-stage",
        act=_helo,
        toml="".join(f'scripts.{stage} = "/srv/mail/{stage}.php"\n' for stage in ("connect", "helo", "mail")) + _PLAIN,
    ),
    Scenario(
        id="maildir",
        act=_two_mails,
        toml=f'chain.save = ["HeadersParser", "Hasher", "Header", "MailDir"]\n{_MAILDIR}{_PLAIN}',
        has_threads=True,
        receipts=_in_maildirs,
    ),
    Scenario(
        id="closed-while-kept",
        before=_hurry,
        act=_helo,
        toml=_KEEPING,
        manner=Manner.RETIRES,
        shows=lambda world: world.store.retired > 0,
    ),
    Scenario(id="crowd", act=_crowd, toml=f"{_PLAIN}max_connections = 1\nreserve_for_validate = 0\n"),
    Scenario(id="proxied", act=_proxied, toml=f'{_LISTENER}proxy_protocol_from = ["unix"]\n[fastcgi]\n{_FASTCGI}'),
    Scenario(
        id="one-dead",
        act=_two_mails,
        toml=f'{_LISTENER}[fastcgi]\nupstreams = ["unix:FOLDER/dead", "unix:FOLDER/fcgi"]\n',
    ),
    Scenario(id="kept", before=_hurry, act=_three_mails, toml=_KEEPING, shows=lambda world: world.store.reused > 0),
    Scenario(
        id="started",
        act=_helo,
        toml=f'chain.save = ["Header", "MailDir"]\n{_MAILDIR}{_PLAIN}',
        counts_start=True,
        has_threads=True,
        receipts=_in_maildirs,
        targets=(Target.SERVER,),
    ),
    Scenario(
        id="maildir-from-disk",
        act=_large,
        toml=f'spool.memory_octets = 65536\nchain.save = ["Hasher", "Compressor", "MailDir"]\n{_MAILDIR}{_PLAIN}',
        has_threads=True,
        receipts=_in_maildirs,
    ),
    Scenario(id="over-tcp", act=_helo, toml=f'{_LISTENER}[fastcgi]\nupstreams = ["tcp:127.0.0.1:PORT"]\n'),
    Scenario(id="silent-at-first", act=_patient, toml=f"limits.banner_delay_seconds = 1\n{_PLAIN}"),
    Scenario(id="introduced", act=_introduced, toml=f'{_LISTENER}xclient_from = ["unix"]\n[fastcgi]\n{_FASTCGI}'),
    Scenario(id="one-too-many", act=_one_too_many, toml=f"limits.connections = 1\n{_PLAIN}"),
    Scenario(
        id="unannounced", act=_unannounced, toml=f'{_LISTENER}proxy_protocol_from = ["unix"]\n[fastcgi]\n{_FASTCGI}'
    ),
    Scenario(id="stopped", act=_stopped, again=_helo, toml=_PLAIN, targets=(Target.SERVER, Target.CLIENT)),
    Scenario(
        id="cut", act=_cut, again=_helo, toml=_PLAIN, targets=(Target.SERVER, Target.CLIENT), manner=Manner.PONDERS
    ),
    Scenario(
        id="reloaded", act=_reloaded, again=_helo, toml=_PLAIN, targets=(Target.SERVER, Target.CLIENT, Target.CALLER)
    ),
)
