"""Bugs 37 to 41 of go-guerrilla: how it started, reloaded, logged, and shared what it had.

Each test has the number that docs/migrating.md has for the bug.
"""

import os
import re
import resource
from pathlib import Path

import pytest
import trio

from tests.guerrilla.support import QUEUED, guerrilla_file, load, moved, only_at
from tests.support import Journal, Line, elapsed, serving
from trio_fcgimail.cli.descriptors import find_shortage
from trio_fcgimail.config import ConfigErrors, LogSettings, TlsMode
from trio_fcgimail.server import LogFile, LogObserver, Server, make_log
from trio_fcgimail.server.entrance import open_entrances

pytestmark = pytest.mark.trio

_PLACEHOLDERS: dict[str, object] = {"public_key_file": "/path/to/cert.pem", "private_key_file": "/path/to/key.pem"}


async def test_bug_37_what_is_off_need_not_be_right(journal: Journal, tmp_path: Path) -> None:
    off = {"is_enabled": False, "listen_interface": "nonsense", "tls": {**_PLACEHOLDERS, "tls_always_on": True}}
    content = guerrilla_file(str(tmp_path / "fcgi"), server={"tls": {**_PLACEHOLDERS, "start_tls_on": False}})
    servers = content["servers"]
    assert isinstance(servers, list)
    configuration = load(tmp_path, {**content, "servers": [*servers, off]})
    (entrance,) = open_entrances(configuration.settings)
    assert (entrance.settings.tls, entrance.context) == (TlsMode.NONE, None)
    async with serving(configuration.settings, journal) as served:
        await served.guest()


async def test_bug_39_servers_share_nothing_and_end_cleanly(journal: Journal, tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        folder.mkdir()
    for _ in range(3):  # to start again is nothing special
        async with (
            moved(folders[0], journal) as one,
            moved(folders[1], journal, backend={"save_process": "Header|FastCGI"}) as two,
        ):
            for house in (one, two):
                assert (await (await house.guest()).mail()).startswith(QUEUED)
            assert [len(house.mails) for house in (one, two)] == [1, 1]
            assert [house.mails[0].fields["body"].startswith("Delivered-To") for house in (one, two)] == [False, True]


async def test_bug_40_log_that_hangs_holds_up_no_mail(journal: Journal, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)  # who never reads
    file = LogFile(pipe)
    try:
        file.line("x" * 2_000_000)  # more than any pipe holds
        async with moved(tmp_path, journal) as house:
            log = make_log(LogSettings(), file)
            server = Server(house.configuration.settings, log=log, observers=[LogObserver(log)])
            async with trio.open_nursery() as nursery:
                (address,) = await nursery.start(server.run)
                house.served.addresses = (address,)
                seconds = elapsed()
                client = await house.guest()
                for _ in range(20):
                    assert (await client.mail()).startswith(QUEUED)
                assert seconds() < 5
                server.cut()
    finally:
        os.close(reader)
        file.close()


async def test_bug_40_descriptors_are_counted_by_what_the_file_promises(tmp_path: Path) -> None:
    settings = load(tmp_path, guerrilla_file("/x", server={"max_clients": 1000})).settings
    shortage = find_shortage(settings, 1024)
    assert shortage is not None
    assert re.match(r"1000 connections may need \d{4} file descriptors, and 1024 are allowed", shortage)
    assert find_shortage(settings, 4096) is None
    assert find_shortage(settings, resource.RLIM_INFINITY) is None


@pytest.mark.parametrize(("size", "at_once"), [(None, 1), (8, 7)], ids=["default", "eight"])
async def test_bug_41_mails_are_saved_at_the_same_time(
    size: int | None, at_once: int, journal: Journal, tmp_path: Path
) -> None:
    most, running, full = 0, 0, trio.Event()

    async def slow(line: Line) -> None:
        nonlocal most, running
        await line.body()
        running += 1
        most = max(most, running)
        if running == at_once:
            full.set()
        with trio.move_on_after(5):
            await full.wait()
        running -= 1
        await line.answer(b"SAVED")

    async with moved(tmp_path, journal, only_at("POST", slow), backend={"save_workers_size": size}) as house:
        clients = [await house.guest() for _ in range(at_once)]
        async with trio.open_nursery() as nursery:
            for client in clients:
                nursery.start_soon(client.mail)
        assert most == at_once
        (warning,) = (one for one in house.configuration.warnings if one.key == "backend_config.save_workers_size")
        assert f"at most {max(size or 1, 2)} requests run at a time; raise it, up to pm.max_children" in warning.done


async def test_bug_41_a_validation_never_waits_for_saves(journal: Journal, tmp_path: Path) -> None:
    async def hangs(_line: Line) -> None:
        await trio.sleep_forever()

    backend = {"save_workers_size": 1, "gw_save_timeout": "1s"}
    async with moved(tmp_path, journal, only_at("POST", hangs), backend=backend) as house:
        first, second = await house.guest(), await house.guest()
        await first.begin()
        await first.send(b"\r\n.\r\n")
        seconds = elapsed()
        await second.begin()
        assert seconds() < 0.9
        await first.close()
        await second.close()


async def test_bug_41_a_worker_is_a_number_and_not_a_guess(tmp_path: Path) -> None:
    configuration = load(tmp_path, guerrilla_file("/x", backend={"save_workers_size": "4"}))
    assert configuration.settings.fastcgi.max_connections == 2
    told = [one for one in configuration.warnings if one.key == "backend_config.save_workers_size"]
    assert any(one.found == '"4"' for one in told)
    with pytest.raises(ConfigErrors):
        load(tmp_path, guerrilla_file("/x", server={"max_clients": "many"}))
