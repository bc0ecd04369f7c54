"""Bugs 1 to 13 of go-guerrilla and its FastCGI and MailDir processors: mail that was lost, and wrong verdicts.

Each test has the number that docs/migrating.md has for the bug.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
import trio

from tests.config.guerrilla_files import MAILDIRANASAURUS, minimal
from tests.guerrilla.support import QUEUED, guerrilla_file, load, moved, only_at
from tests.phpfpm import PhpFpm, php_fpm
from tests.support import (
    HEAD,
    MAIL,
    TEMPFAIL,
    Act,
    House,
    Journal,
    Line,
    ScriptedResponder,
    elapsed,
    end,
    serving,
    stderr,
    stdout,
)
from trio_fcgimail.config import ConfigErrors
from trio_fcgimail.config import Processor as BuiltIn
from trio_fcgimail.fastcgi import ProtocolStatus
from trio_fcgimail.server.processors import GoOn, Mail, Processor

pytestmark = pytest.mark.trio


# Answers that are none, by what was sent after the request was read


async def _closes(line: Line) -> None:
    await line.body()


async def _is_overloaded(line: Line) -> None:
    await line.body()
    await line.write(end(ProtocolStatus.OVERLOADED))


async def _has_no_head(line: Line) -> None:
    await line.body()
    await line.write(stdout(b"SAVED") + end())


async def _is_silent(line: Line) -> None:
    await line.body()
    await line.answer(b"")


async def _ends_within(line: Line) -> None:
    await line.body()
    await line.write(stdout(HEAD + b"SAVED"))


async def _fails_by_status(line: Line) -> None:
    await line.body()
    await line.write(stdout(b"Status: 500 Internal Server Error\r\n" + HEAD + b"SAVED") + end())


async def _hangs(_line: Line) -> None:
    await trio.sleep_forever()


NO_VERDICTS: Final = [
    pytest.param(_closes, id="closed-without-a-reply"),
    pytest.param(_is_overloaded, id="overloaded"),
    pytest.param(_has_no_head, id="no-head"),
    pytest.param(_is_silent, id="empty"),
    pytest.param(_ends_within, id="no-end"),
    pytest.param(_fails_by_status, id="status-500"),
]


@pytest.mark.parametrize("act", NO_VERDICTS)
async def test_bug_01_save_that_fails_is_451_and_logged(act: Act, journal: Journal, tmp_path: Path) -> None:
    async with moved(tmp_path, journal, only_at("POST", act)) as house:
        client = await house.guest()
        await client.begin(b"a@example.com", b"b@example.com", b"c@example.com")
        assert await client.ask(MAIL + b".") == TEMPFAIL
        (entry,) = journal.entries("mail")
        assert (entry["level"], entry["verdict"]) == ("warning", "failed")
        assert entry["reason"]


async def test_bug_01_php_that_is_stopped_is_451_and_logged(journal: Journal, tmp_path: Path) -> None:
    async with moved(tmp_path, journal, backend={"validate_process": ""}) as house:
        (tmp_path / "fcgi").unlink()
        assert await (await house.guest()).mail() == TEMPFAIL
        (entry,) = journal.entries("mail")
        assert "UpstreamUnavailable" in str(entry["reason"])


async def test_bug_01_stderr_is_never_part_of_the_answer(journal: Journal, tmp_path: Path) -> None:
    async def act(line: Line) -> None:
        await line.body()
        await line.write(stderr(b"no: header\n\nnotice\n") + stdout(HEAD + b"SAVED") + end())

    async with moved(tmp_path, journal, only_at("POST", act)) as house:
        assert (await (await house.guest()).mail()).startswith(QUEUED)
        assert journal.entries("script stderr")


@pytest.mark.parametrize("act", [*NO_VERDICTS, pytest.param(_hangs, id="hangs")])
async def test_bug_02_validation_that_fails_is_451(act: Act, journal: Journal, tmp_path: Path) -> None:
    backend = {"gw_val_rcpt_timeout": "200ms"}
    async with moved(tmp_path, journal, only_at("GET", act), backend=backend) as house:
        client = await house.guest()
        assert (await client.ask(b"MAIL FROM:<a@client.example>")).startswith(b"250 ")
        assert await client.ask(b"RCPT TO:<b@example.com>") == TEMPFAIL
        assert journal.entries("recipient")[0]["verdict"] == "failed"


async def test_bug_03_save_that_takes_too_long_is_451_in_time(journal: Journal, tmp_path: Path) -> None:
    async with moved(tmp_path, journal, only_at("POST", _hangs), backend={"gw_save_timeout": "300ms"}) as house:
        client = await house.guest()
        await client.begin()
        seconds = elapsed()
        assert await client.ask(MAIL + b".") == TEMPFAIL
        assert 0.25 <= seconds() < 3
        assert await client.ask(b"NOOP") == b"250 2.0.0 OK\r\n"  # the session goes on at once


async def test_bug_04_hung_script_stalls_nobody_else_and_not_the_end(journal: Journal, tmp_path: Path) -> None:
    backend = {"save_workers_size": 1, "gw_save_timeout": "1500ms"}
    async with moved(tmp_path, journal, only_at("POST", _hangs), backend=backend) as house:
        first, second = await house.guest(), await house.guest()
        await first.begin()
        await first.send(MAIL + b".\r\n")
        await second.begin()  # whose recipient is validated meanwhile
        house.served.server.stop()
        assert await first.reply() == TEMPFAIL
        assert await first.ask(b"NOOP") == b"421 4.3.2 Shutting down; try again later\r\n"
        await second.close()
        seconds = elapsed()
    assert seconds() < 3
    assert journal.entries("stopped")


class Dies(Processor):
    """A processor with a fault."""

    async def save(self, mail: Mail) -> GoOn:
        """Fail."""
        raise ZeroDivisionError(f"died of {mail.envelope.queue_id}")


async def test_bug_05_processor_that_dies_is_451(nursery: trio.Nursery, journal: Journal) -> None:
    scripts = ScriptedResponder(nursery)
    house = House(
        nursery, journal, 'chain.save = ["Dies", "FastCGI"]', connect=scripts.connect, processors={"dies": Dies}
    )
    client = await house.guest()
    assert await client.mail() == TEMPFAIL
    assert await client.ask(b"NOOP") == b"250 2.0.0 OK\r\n"
    await client.close()
    (entry,) = journal.entries("processor failed")
    assert "ZeroDivisionError" in str(entry["problem"])


async def test_bug_05_maildir_that_is_not_there_is_451(journal: Journal, tmp_path: Path) -> None:
    backend = {
        "save_process": "MailDir|FastCGI",
        "maildir_path": f"{tmp_path}/not-mounted/[user]/Maildir",
        "maildir_user_map": "b=-1:-1",
    }
    async with moved(tmp_path, journal, backend=backend) as house:
        assert await (await house.guest()).mail() == TEMPFAIL
        assert house.mails == []


async def test_bug_07_keys_of_the_sample_of_maildiranasaurus_are_understood(journal: Journal, tmp_path: Path) -> None:
    backend: dict[str, object] = {
        "save_process": None,
        "validate_process": None,
        "save_processors": "HeadersParser|Debugger|Hasher|Header|FastCGI",
        "validate_processors": "FastCGI",
    }
    async with moved(tmp_path, journal, backend=backend) as house:
        assert (await (await house.guest()).mail()).startswith(QUEUED)
        assert len(house.mails) == 1
        told = {warning.key for warning in house.configuration.warnings}
        assert {"backend_config.save_processors", "backend_config.validate_processors"} <= told
    sample = load(tmp_path, MAILDIRANASAURUS).settings
    assert sample.chain.save[-2:] == (BuiltIn.MAILDIR, BuiltIn.FASTCGI)


@pytest.mark.parametrize("chain", [None, "", "HeadersParser|Header|Debugger"], ids=["default", "empty", "debugger"])
async def test_bug_07_chain_that_stores_nothing_does_not_start(chain: str | None, tmp_path: Path) -> None:
    config = {} if chain is None else {"save_process": chain}
    with pytest.raises(ConfigErrors, match=r"backend_config\.save_process: .*--discard"):
        load(tmp_path, minimal(backend_config=config))


@pytest.fixture
def small_php() -> Iterator[PhpFpm]:
    """PHP as it comes: it drops what is larger than post_max_size, and runs the script."""
    yield from php_fpm(ini={"post_max_size": "8K"})


async def test_bug_08_post_that_php_has_dropped_is_451(small_php: PhpFpm, journal: Journal, tmp_path: Path) -> None:
    script = small_php.script("save.php", "<?php echo 'SAVED';")
    content = guerrilla_file(
        str(small_php.socket_path), backend={"validate_process": "", "fcgi_script_filename_save": script}
    )
    async with serving(load(tmp_path, content).settings, journal) as served:
        client = await served.guest()
        assert (await client.mail()).startswith(QUEUED)
        assert await client.mail(MAIL + b"\xe4" * 10_000 + b"\r\n") == TEMPFAIL
        assert "exceeds the limit" in str(journal.entries("mail")[1]["reason"])


async def test_bug_09_header_of_any_size_is_read(journal: Journal, tmp_path: Path) -> None:
    padding = b"".join(b"ARC-Seal: i=%d; %s\r\n" % (number, b"x" * 70) for number in range(400))
    async with moved(tmp_path, journal) as house:
        mail = padding + b"Subject: =?utf-8?q?behind_32_kB_=C3=A9?=\r\n\r\nbody\r\n"
        assert len(padding) > 32_000
        assert (await (await house.guest()).mail(mail)).startswith(QUEUED)
        assert house.mails[0].fields["subject"].encode("latin-1").decode() == "behind 32 kB é"


async def test_bug_10_compressor_leaves_the_mail_whole(journal: Journal, tmp_path: Path) -> None:
    (tmp_path / "maildirs").mkdir()
    backend = {
        "save_process": "HeadersParser|Header|Compressor|MailDir|FastCGI",
        "maildir_path": f"{tmp_path}/maildirs/[user]",
        "maildir_user_map": "b=-1:-1",
    }
    async with moved(tmp_path, journal, backend=backend) as house:
        assert (await (await house.guest()).mail()).startswith(QUEUED)
        body = house.mails[0].fields["body"]
        assert body.endswith(MAIL.decode().replace("\r\n", "\n"))
        (path,) = (tmp_path / "maildirs/b/new").iterdir()
        assert path.read_bytes().decode() == body


@pytest.mark.parametrize("name", ["SQL", "Redis", "GuerrillaRedisDB", "mysql", "GuerrillaDbRedis"])
async def test_bug_11_processor_that_needs_a_database_is_refused_by_name(name: str, tmp_path: Path) -> None:
    content = guerrilla_file("/run/fcgi", backend={"save_process": f"HeadersParser|Hasher|{name}|FastCGI"})
    with pytest.raises(ConfigErrors, match=rf'backend_config\.save_process: found "{name}".*docs/migrating\.md'):
        load(tmp_path, content)


async def test_bug_12_maildir_has_no_user_that_it_skips(journal: Journal, tmp_path: Path) -> None:
    (tmp_path / "maildirs").mkdir()
    backend = {
        "save_process": "MailDir",
        "validate_process": "",
        "maildir_path": f"{tmp_path}/maildirs/[user]",
        "maildir_user_map": "Alice=-1:-1",
    }
    async with moved(tmp_path, journal, backend=backend) as house:
        client = await house.guest()
        await client.ask(b"MAIL FROM:<a@client.example>")
        assert await client.ask(b"RCPT TO:<nobody@example.com>") == b"550 5.1.1 No such user\r\n"
        assert (await client.ask(b"RCPT TO:<aLICE@example.com>")).startswith(b"250 ")
        await client.ask(b"DATA")
        assert (await client.ask(MAIL + b".")).startswith(QUEUED)
        assert len(list((tmp_path / "maildirs/alice/new").iterdir())) == 1


@pytest.mark.parametrize("entry", ["b=x:y", "b", "b=1", "b=-2:1", "b=0x10:1"])
async def test_bug_12_user_that_cannot_be_read_is_an_error_and_not_root(entry: str, tmp_path: Path) -> None:
    backend = {"save_process": "MailDir", "maildir_path": "/home/[user]", "maildir_user_map": f"a=1:1,{entry}"}
    with pytest.raises(ConfigErrors, match=r"backend_config\.maildir_user_map: found"):
        load(tmp_path, guerrilla_file("/run/fcgi", backend=backend))


async def test_bug_13_chain_is_all_or_nothing_to_the_sender(journal: Journal, tmp_path: Path) -> None:
    (tmp_path / "maildirs").mkdir()
    answers = [b"554 5.6.0 Not this one", b"SAVED"]

    async def act(line: Line) -> None:
        await line.body()
        await line.answer(answers.pop(0))

    backend = {
        "save_process": "MailDir|FastCGI",
        "maildir_path": f"{tmp_path}/maildirs/[user]",
        "maildir_user_map": "b=-1:-1",
    }
    async with moved(tmp_path, journal, only_at("POST", act), backend=backend) as house:
        client = await house.guest()
        assert await client.mail() == TEMPFAIL
        assert (await client.mail()).startswith(QUEUED)
        assert len(list((tmp_path / "maildirs/b/new").iterdir())) == 1  # the retry is not a second mail
