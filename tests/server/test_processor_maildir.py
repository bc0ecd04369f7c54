"""The processor MailDir: who has a Maildir, where a mail goes, and that a retry is stored once."""

import errno
import os
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path
from typing import Final

import pytest
import trio

from tests.support import MAIL, TEMPFAIL, Dialogue, House, Journal, ScriptedResponder, refuse
from trio_fcgimail.config import MaildirSettings
from trio_fcgimail.server import Server
from trio_fcgimail.server.maildir import Delivery
from trio_fcgimail.server.processors import ChainError

pytestmark = pytest.mark.trio

STORED: Final = MAIL.replace(b"\r\n", b"\n")
UNKNOWN: Final = b"550 5.1.1 No such user\r\n"
QUEUED: Final = b"250 2.0.0 OK: queued as "
LMTP: Final = '[[listeners]]\naddress = "127.0.0.1:0"\nprotocol = "lmtp"\n'


def toml(folder: Path, *before: str, validate: str = "", more: str = "") -> str:
    names = ", ".join(f'"{name}"' for name in (*before, "MailDir"))
    return (
        f"[chain]\nsave = [{names}]\nvalidate = [{validate}]\ntrace_header = false\n"
        f'[maildir]\npath = "{folder}/[user]"\n'
        f'user_map = {{Alice = "-1:-1", bob = "", "c.d" = "{os.getuid()}:{os.getgid()}"}}\n{more}'
    )


@asynccontextmanager
async def guest(house: House, greeting: bytes = b"EHLO") -> AsyncIterator[Dialogue]:
    async with house.gateway.chain.ready():
        client, _ = house.visit()
        await client.reply()
        assert (await client.ask(greeting + b" client.example")).startswith(b"250-")
        yield client
        await client.close()


def stored(folder: Path, user: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted((folder / user / "new").iterdir())] if (folder / user).exists() else []


def drafts(folder: Path) -> list[Path]:
    return list(folder.glob("*/tmp/*"))


async def test_each_user_gets_the_mail_with_what_was_put_in_front(
    tmp_path: Path, nursery: trio.Nursery, journal: Journal
) -> None:
    async with guest(House(nursery, journal, toml(tmp_path, "Header"))) as client:
        await client.begin(b"ALICE@example.com", b"c.d@EXAMPLE.com", b"alice@EXAMPLE.com")
        assert (await client.ask(MAIL + b".")).startswith(QUEUED)
    for user in ("alice", "c.d"):
        (content,) = stored(tmp_path, user)
        assert content.startswith(b"Received: from client.example ([192.0.2.1])\n")
        assert content.endswith(STORED)
    assert stored(tmp_path, "bob") == []
    assert (tmp_path / "alice" / "new").stat().st_mode & 0o777 == 0o700


async def test_binary_octets_stay_as_they_are(tmp_path: Path, nursery: trio.Nursery, journal: Journal) -> None:
    binary = b"Subject: x\r\n\r\n\x89PNG\r\n\x1a\n\0"
    async with guest(House(nursery, journal, toml(tmp_path))) as client:
        await client.ask(b"MAIL FROM:<a@client.example> BODY=BINARYMIME")
        await client.ask(b"RCPT TO:<alice@example.com>")
        await client.send(b"BDAT %d LAST\r\n" % len(binary) + binary)
        assert (await client.reply()).startswith(QUEUED)
    assert stored(tmp_path, "alice") == [binary]


async def test_unknown_user_is_refused_at_rcpt_whatever_the_validate_list_says(
    tmp_path: Path, nursery: trio.Nursery, journal: Journal
) -> None:
    async with guest(House(nursery, journal, toml(tmp_path))) as client:
        await client.ask(b"MAIL FROM:<a@client.example>")
        for user in (b"carol", b'".."', b'"../alice"', b'"alice/../bob"', b'"[user]"', b"postmaster"):
            assert await client.ask(b"RCPT TO:<" + user + b"@example.com>") == UNKNOWN
        assert await client.ask(b"RCPT TO:<postmaster>") == UNKNOWN
        assert (await client.ask(b"RCPT TO:<bob@example.com>")).startswith(b"250 ")
    assert any("postmaster has no maildir" in line for line in journal.lines())


async def test_retry_is_stored_once_for_each_user(tmp_path: Path, nursery: trio.Nursery, journal: Journal) -> None:
    async with guest(House(nursery, journal, toml(tmp_path))) as client:
        for _ in range(3):
            await client.begin(b"alice@example.com", b"bob@example.com")
            assert (await client.ask(MAIL + b".")).startswith(QUEUED)
    assert stored(tmp_path, "alice") == stored(tmp_path, "bob") == [STORED]


async def test_failure_behind_the_maildir_is_451_and_the_retry_finds_it_stored(
    tmp_path: Path, nursery: trio.Nursery, journal: Journal
) -> None:
    responder = ScriptedResponder(nursery, refuse)
    settings = toml(tmp_path).replace('"MailDir"]', '"MailDir", "FastCGI"]')
    async with guest(House(nursery, journal, settings, connect=responder.connect)) as client:
        await client.begin(b"alice@example.com")
        assert await client.ask(MAIL + b".") == TEMPFAIL
        responder.act = None
        await client.begin(b"alice@example.com")
        assert (await client.ask(MAIL + b".")).startswith(QUEUED)
    assert stored(tmp_path, "alice") == [STORED]
    assert len(responder.requests) == 1


@dataclass(frozen=True)
class Fault:
    """What the disk says when a file is synced, and what the sender is told."""

    id: str
    number: int
    reply: bytes


FAULTS: Final = [
    Fault("disk-full", errno.ENOSPC, b"452 4.3.1 Insufficient storage; try again later\r\n"),
    Fault("over-quota", errno.EDQUOT, b"452 4.2.2 Mailbox full; try again later\r\n"),
    Fault("broken", errno.EIO, TEMPFAIL),
]


@pytest.mark.parametrize("fault", FAULTS, ids=attrgetter("id"))
async def test_disk_that_cannot_take_it_is_temporary_and_nothing_is_left(
    fault: Fault, tmp_path: Path, nursery: trio.Nursery, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(_descriptor: int) -> None:
        raise OSError(fault.number, os.strerror(fault.number))

    async with guest(House(nursery, journal, toml(tmp_path))) as client:
        await client.begin(b"alice@example.com")
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", failing)
            assert await client.ask(MAIL + b".") == fault.reply
        assert drafts(tmp_path) == []
        assert stored(tmp_path, "alice") == []
        await client.begin(b"alice@example.com")
        assert (await client.ask(MAIL + b".")).startswith(QUEUED)
    assert stored(tmp_path, "alice") == [STORED]


async def test_in_lmtp_one_users_disk_does_not_concern_the_others(
    tmp_path: Path, nursery: trio.Nursery, journal: Journal
) -> None:
    (tmp_path / "bob").write_bytes(b"")  # where a folder should be
    async with guest(House(nursery, journal, toml(tmp_path, more=LMTP)), b"LHLO") as client:
        await client.begin(b"alice@example.com", b"bob@example.com", b"c.d@example.com")
        await client.send(MAIL + b".\r\n")
        assert [(await client.reply())[:3] for _ in range(3)] == [b"250", b"451", b"250"]
    assert stored(tmp_path, "alice") == stored(tmp_path, "c.d") == [STORED]


async def test_disk_that_hangs_is_451_on_time_and_its_thread_cleans_up(
    tmp_path: Path, nursery: trio.Nursery, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    hanging, released, removed = threading.Event(), threading.Event(), threading.Event()
    fsync, remove = os.fsync, Delivery._remove

    def removing(delivery: Delivery) -> None:
        remove(delivery)
        removed.set()

    def slow(descriptor: int) -> None:
        hanging.set()
        released.wait(10)
        fsync(descriptor)

    house = House(nursery, journal, toml(tmp_path, more="[scripts]\nsave_seconds = 0.2\n"))
    async with guest(house) as client:
        await client.begin(b"alice@example.com")
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", slow)
            monkeypatch.setattr(Delivery, "_remove", removing)
            began = trio.current_time()
            assert await client.ask(MAIL + b".") == TEMPFAIL
            assert trio.current_time() - began < 3
        assert hanging.is_set()
        released.set()
        assert await trio.to_thread.run_sync(removed.wait, 10)
    assert drafts(tmp_path) == []
    assert stored(tmp_path, "alice") == []


async def test_home_of_the_template_is_ours(
    tmp_path: Path, nursery: trio.Nursery, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    settings = toml(tmp_path).replace(f'"{tmp_path}/[user]"', '"~/[user]/[user]"')
    (tmp_path / "alice").mkdir()
    async with guest(House(nursery, journal, settings)) as client:
        await client.begin(b"alice@example.com")
        assert (await client.ask(MAIL + b".")).startswith(QUEUED)
    assert (tmp_path / "alice" / "[user]" / "new").is_dir()


async def test_files_belong_to_the_user_when_we_may_give_them_away(
    tmp_path: Path, nursery: trio.Nursery, journal: Journal
) -> None:
    """As root they do; as anybody else there is a warning, and the mail stays ours."""
    settings = toml(tmp_path).replace('bob = ""', 'bob = "65533:65532"')
    async with guest(House(nursery, journal, settings)) as client:
        await client.begin(b"bob@example.com")
        assert (await client.ask(MAIL + b".")).startswith(QUEUED)
    (path,) = (tmp_path / "bob" / "new").iterdir()
    may = os.geteuid() == 0
    for one in (path, path.parent, tmp_path / "bob"):
        owner = (one.stat().st_uid, one.stat().st_gid)
        assert owner == ((65533, 65532) if may else (os.geteuid(), os.getegid()))
    assert path.stat().st_mode & 0o777 == 0o600
    assert len(journal.entries("mails stay ours, as we may not give them away")) == (0 if may else 1)


async def test_settings_in_code_without_users_do_not_start(
    tmp_path: Path, nursery: trio.Nursery, journal: Journal
) -> None:
    house = House(nursery, journal, toml(tmp_path))
    with pytest.raises(ChainError, match=r"maildir\.path"):
        await Server(replace(house.settings, maildir=MaildirSettings()), log=journal.log).run()
