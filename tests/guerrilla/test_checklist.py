"""What whoever moves here from go-guerrilla relies on: the samples, what scripts say, what clients hear, the names."""

import json
import re
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import pytest

from tests.cli.support import answers, deliver
from tests.config.guerrilla_files import GO_GUERRILLA, MAILDIRANASAURUS, text_of
from tests.guerrilla.support import QUEUED, guerrilla_file, load, moved, only_at
from tests.server.responder_process import Store, storing
from tests.server_process import ServerProcess, eventually, free_port, run_command
from tests.support import TEMPFAIL, Journal, Line
from trio_fcgimail.server import events

ROOT: Final = Path(__file__).parents[2]
MIGRATING: Final = (ROOT / "docs" / "migrating.md").read_text()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """Scripts that take everything."""
    with storing(tmp_path / "fcgi") as store:
        yield store


def _write(folder: Path, content: Mapping[str, object], name: str = "goguerrilla.conf.json") -> None:
    (folder / name).write_text(text_of(content))


def _with_backend(content: Mapping[str, object], **keys: object) -> dict[str, object]:
    backend = content["backend_config"]
    assert isinstance(backend, dict)
    return {**content, "backend_config": {**backend, **keys}}


# The samples that both projects ship


def test_sample_of_go_guerrilla_says_that_it_stores_nothing(tmp_path: Path) -> None:
    _write(tmp_path, _with_backend(GO_GUERRILLA, save_process="HeadersParser|Header|Debugger", validate_process=""))
    done = run_command("serve", folder=tmp_path)
    assert done.returncode == 2
    assert b"backend_config.save_process: found" in done.stderr
    assert b"FastCGI or MailDir among them, or the option --discard" in done.stderr


@pytest.mark.parametrize("discard", [True, False], ids=["as-shipped", "with-fastcgi"])
def test_sample_of_go_guerrilla_says_which_certificate_is_missing(discard: bool, tmp_path: Path) -> None:
    chain = {"save_process": "HeadersParser|Header|Debugger", "validate_process": ""} if discard else {}
    pid = str(tmp_path / "my.pid")
    _write(tmp_path, {**_with_backend(GO_GUERRILLA, **chain), "pid_file": pid})
    done = run_command("serve", *(["--discard"] if discard else []), folder=tmp_path)
    assert done.returncode == 1
    assert b"trio_fcgimail: cannot do TLS on 127.0.0.1:25: /path/to/cert.pem: No such file" in done.stderr
    assert not Path(pid).exists()


def test_sample_of_go_guerrilla_starts_without_tls(store: Store, tmp_path: Path) -> None:
    content = json.loads(text_of(GO_GUERRILLA))
    content["servers"][0] |= {"listen_interface": "127.0.0.1:0", "tls": {}}
    content["pid_file"] = str(tmp_path / "my.pid")
    content["backend_config"]["fcgi_connection_address"] = store.address.removeprefix("unix:")
    _write(tmp_path, content)
    with ServerProcess("serve", folder=tmp_path) as server:
        deliver(server.port)
        log = server.log
        assert server.stop(signal.SIGTERM) == 0
    assert store.requests[-1].fields["body"].startswith("Delivered-To: info@mail.example.com\nReceived: from ")
    assert "key=backend_config.save_workers_size" in log


def test_sample_of_maildiranasaurus_starts(store: Store, tmp_path: Path) -> None:
    content = json.loads(text_of(MAILDIRANASAURUS))
    content["servers"][0]["listen_interface"] = "127.0.0.1:0"
    content["backend_config"] |= {
        "maildir_path": f"{tmp_path}/[user]",
        "maildir_user_map": "alice=-1:-1,Bob=-1:-1",
        "fcgi_connection_type": "unix",
        "fcgi_connection_address": store.address.removeprefix("unix:"),
    }
    _write(tmp_path, content, "maildiranasaurus.conf")
    with ServerProcess("serve", folder=tmp_path) as server:
        deliver(server.port, recipient="Alice@example.com")
        deliver(server.port, recipient="bob@example.com")
        assert "backend_config.save_processors" in server.log
        assert server.stop(signal.SIGTERM) == 0
    for user in ("alice", "bob"):
        (mail,) = (tmp_path / user / "new").iterdir()
        assert mail.read_bytes().startswith(
            f"Delivered-To: {user}@".encode() if user == "bob" else b"Delivered-To: Alice@"
        )
    assert len([request for request in store.requests if request.is_post]) == 2


# The start, and signals


def test_php_may_come_later(tmp_path: Path) -> None:
    socket_path = tmp_path / "fcgi"
    _write(tmp_path, guerrilla_file(str(socket_path)))
    with ServerProcess("serve", folder=tmp_path) as server:
        assert answers(server.port)
        with storing(socket_path) as store:
            deliver(server.port)
            # Nobody is asked about test@example.com at the start.
            assert [request.fields.get("rcpt_to", "") for request in store.requests] == ["info@example.com", ""]


def test_reload_moves_log_level_and_pid_file(store: Store, tmp_path: Path) -> None:
    port = free_port()

    def write(**more: object) -> None:
        content = guerrilla_file(store.address.removeprefix("unix:"), server={"listen_interface": f"127.0.0.1:{port}"})
        _write(tmp_path, {**content, **more})

    first, second = tmp_path / "first.log", tmp_path / "second.log"
    one, other = tmp_path / "one.pid", tmp_path / "other.pid"
    write(log_file=str(first), log_level="warn", pid_file=str(one))
    started = lambda server: eventually(lambda: answers(port), "it serves")  # noqa: E731
    with ServerProcess("serve", folder=tmp_path, ready=started) as server:
        assert one.read_text() == f"{server.pid}\n"
        write(log_file=str(second), log_level="info", pid_file=str(other))
        server.send(signal.SIGHUP)
        eventually(lambda: second.exists() and "] reloaded " in second.read_text(), "the parent writes there")
        assert not one.exists()
        assert other.read_text() == f"{server.pid}\n"
        assert "] listening " not in first.read_text()  # which is of level info

        moved_log = second.rename(tmp_path / "second.log.1")
        server.send(signal.SIGUSR1)
        eventually(second.exists, "the new one is opened anew")
        write(log_file=str(second), log_level="info", pid_file="/nonexistent/x.pid")
        server.send(signal.SIGHUP)
        eventually(lambda: "reloaded, but" in second.read_text(), "it says so")
        assert other.exists()
        assert server.stop(signal.SIGTERM) == 0
        assert "stopped" in second.read_text()
        assert "stopped" not in moved_log.read_text()
    assert not other.exists()


def test_pid_file_of_the_command_line_outlives_a_reload(store: Store, tmp_path: Path) -> None:
    _write(tmp_path, guerrilla_file(store.address.removeprefix("unix:"), more={"pid_file": "file.pid"}))
    with ServerProcess("serve", "--pidFile", "mine.pid", "--verbose", folder=tmp_path) as server:
        server.send(signal.SIGHUP)
        server.wait_for_log("] reloaded ")
        assert (tmp_path / "mine.pid").exists()
        assert not (tmp_path / "file.pid").exists()
        server.send(signal.SIGHUP)
        server.wait_for_log("] reloaded ", 2)
        assert server.stop(signal.SIGQUIT) == 0
    assert not (tmp_path / "mine.pid").exists()


@pytest.mark.parametrize("name", ["goguerrilla.conf", "goguerrilla.conf.json", "maildiranasaurus.conf"])
def test_file_is_found_where_it_was(name: str, store: Store, tmp_path: Path) -> None:
    _write(tmp_path, guerrilla_file(store.address.removeprefix("unix:")), name)
    done = run_command("check", folder=tmp_path)
    assert done.returncode == 0, done.stdout


def test_version_is_told() -> None:
    plain, verbose = (run_command("version", *more, folder=ROOT).stdout.decode() for more in ((), ("-v",)))
    assert re.fullmatch(r"trio_fcgimail \S+\n", plain)
    assert re.fullmatch(re.escape(plain) + r"Python \S+, Trio \S+, OpenSSL .+\n", verbose)


# What scripts say

SAID: Final = [
    pytest.param("POST", b"SAVED", b"250", id="saved"),
    pytest.param("POST", b"SAVED as 7", b"250", id="saved-with-words"),
    pytest.param("POST", b"\xef\xbb\xbf\n SAVED\n", b"250", id="saved-in-blanks"),
    pytest.param("POST", b"SAVEDxx", b"451", id="saved-and-letters"),
    pytest.param("POST", b"SAVED\n<br>Notice: x", b"451", id="saved-and-a-line"),
    pytest.param("POST", b"NO", b"451", id="no"),
    pytest.param("POST", b"554 5.6.0 No", b"554", id="refused"),
    pytest.param("GET", b"PASSED", b"250", id="passed"),
    pytest.param("GET", b"PASS", b"250", id="pass-of-their-readme"),
    pytest.param("GET", b" PASSED\n", b"250", id="passed-in-blanks"),
    pytest.param("GET", b"PASSEDxx", b"550", id="passed-and-letters"),
    pytest.param("GET", b"NO", b"550", id="not-passed"),
    pytest.param("GET", b"", b"451", id="nothing"),
]


@pytest.mark.trio
@pytest.mark.parametrize(("method", "output", "code"), SAID)
async def test_answer_means_what_it_meant_or_what_the_page_says(
    method: str, output: bytes, code: bytes, journal: Journal, tmp_path: Path
) -> None:
    async def act(line: Line) -> None:
        await line.body()
        await line.answer(output)

    async with moved(tmp_path, journal, only_at(method, act)) as house:
        client = await house.guest()
        await client.ask(b"MAIL FROM:<a@client.example>")
        reply = await client.ask(b"RCPT TO:<b@example.com>")
        if method == "POST":
            await client.ask(b"DATA")
            reply = await client.ask(b"Subject: x\r\n\r\n.")
        assert reply[:3] == code


# What clients hear

HEARD: Final = [
    (b"EHLO client.example", b"250-mx.example.com"),
    (b"MAIL FROM:<a@client.example>", b"250 2.1.0 "),
    (b"RCPT TO:<b@example.com>", b"250 2.1.5 "),
    (b"DATA", b"354 "),
    (b"Subject: x\r\n\r\n.", QUEUED),
    (b"RSET", b"250 2.0.0 "),
    (b"VRFY b", b"252 "),
    (b"NOOP", b"250 2.0.0 "),
    (b"HELP", b"214 "),
    (b"MAIL FROM: <a@client.example>", b"250 2.1.0 "),
    (b"RCPT TO: <@one.example,@two.example:b@example.com>", b"250 2.1.5 "),
    (b"RSET", b"250 2.0.0 "),
    (b"x" * 3000, b"500 5.5.2 "),
    (b"NOOPXYZ", b"500 5.5.1 "),
    (b"QUIT", b"221 2.0.0 "),
]


@pytest.mark.trio
async def test_client_hears_the_codes_of_before(journal: Journal, tmp_path: Path) -> None:
    async with moved(tmp_path, journal) as house:
        client = await house.served.dial()
        assert (await client.reply()).startswith(b"220 mx.example.com ")
        for command, reply in HEARD:
            heard = await client.ask(command)
            assert heard.startswith(reply), (command, heard)


@pytest.mark.trio
async def test_keywords_of_before_are_offered(journal: Journal, tmp_path: Path) -> None:
    async with moved(tmp_path, journal) as house:
        client = await house.served.dial()
        await client.reply()
        offered = {
            line[4:].decode().split()[0] for line in (await client.ask(b"EHLO client.example")).split(b"\r\n")[1:-1]
        }
        assert {"SIZE", "PIPELINING", "ENHANCEDSTATUSCODES"} <= offered


@pytest.mark.trio
async def test_bad_commands_end_it(journal: Journal, tmp_path: Path) -> None:
    async with moved(tmp_path, journal) as house:
        replies = await house.told(*[b"FOO"] * 6)
        assert [reply[:3] for reply in replies] == [b"500"] * 5 + [b"421"]


@pytest.mark.trio
async def test_unexpected_output_may_be_554_again(journal: Journal, tmp_path: Path) -> None:
    assert 'unexpected_output = "reject"' in MIGRATING
    settings = load(tmp_path, guerrilla_file("/x")).settings
    assert settings.scripts.unexpected_output.value == "tempfail"
    async with moved(tmp_path, journal, only_at("POST", _silent)) as house:
        assert await (await house.guest()).mail() == TEMPFAIL


async def _silent(line: Line) -> None:
    await line.body()
    await line.answer(b"")


# The Go API


THEIR_EVENTS: Final = {
    "config_change": [
        "new_config", "allowed_hosts", "pid_file", "log_file", "reopen_log_file", "log_level", "backend_config",
    ],
    "server_change": [
        "new_server", "remove_server", "update_config", "start_server", "stop_server", "new_log_file",
        "reopen_log_file", "timeout", "max_clients", "tls_config",
    ],
}  # fmt: skip
THEIR_METHODS: Final = (
    "Start", "Shutdown", "AddProcessor", "LoadConfig", "SetConfig", "ReloadConfig", "ReloadConfigFile", "ReopenLogs",
    "Subscribe", "Unsubscribe", "Publish", "Log",
)  # fmt: skip


@pytest.mark.parametrize("name", [f"{kind}:{name}" for kind, names in THEIR_EVENTS.items() for name in names])
def test_page_says_what_becomes_of_each_event(name: str) -> None:
    (row,) = re.findall(rf"^\|.*`{name}`.*\| (.+) \|$", MIGRATING, re.MULTILINE)
    named = re.findall(r"`(\w+)`", row)
    assert named
    assert all(hasattr(events, one) or one in ("before", "after", "listeners") for one in named)


@pytest.mark.parametrize("name", THEIR_METHODS)
def test_page_says_what_becomes_of_each_method(name: str) -> None:
    assert re.search(rf"^\|.*`{name}\(.*\).*\| .+ \|$", MIGRATING, re.MULTILINE)
