"""A PHP of our own: found, given to the right user, started, kept running, ended; with real php-fpm and php-cgi."""

import json
import os
import pwd
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Final

import pytest
import structlog
import trio
from structlog.testing import capture_logs

from tests.phpfpm import (
    Answer,
    call_script,
    children_of,
    open_folder,
    require_php,
    script_user,
    wait_gone,
)
from trio_fcgimail.server import php, phpprocess
from trio_fcgimail.server.php import (
    PHP_MISSING,
    PhpError,
    PhpKind,
    PhpProgram,
    check_readable,
    choose_user,
    default_search,
    find_php,
    run_php,
)

#: Longer than any of these tests takes, also on a busy machine.
SECONDS: Final = 60
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
NOT_AS_ROOT = pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
BOTH_KINDS = pytest.mark.parametrize("kind", [pytest.param(kind, id=kind.value) for kind in PhpKind])
#: Who the script is, and what it was given.
WHO: Final = """<?php
echo json_encode([
    'uid' => posix_geteuid(), 'gid' => posix_getegid(), 'parent' => posix_getppid(),
    'display_errors' => ini_get('display_errors'), 'memory_limit' => ini_get('memory_limit'),
    'word' => getenv('FCGIMAIL_WORD'), 'body' => strlen($_POST['body'] ?? ''),
]);
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    with open_folder() as path:
        yield path


@pytest.fixture
def private(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Path:
    """Where run_php makes its own folder, so that a test sees whether anything is left there."""
    path = folder / "tmp"
    path.mkdir()
    path.chmod(0o755)
    monkeypatch.setattr(tempfile, "tempdir", str(path))
    return path


def _script(folder: Path, source: str = WHO, name: str = "who.php") -> Path:
    path = folder / name
    path.write_text(source)
    path.chmod(0o644)
    return path


def _fifo(folder: Path) -> Path:
    """What a script writes to when it has begun; a reader waits for it."""
    path = folder / "begun"
    os.mkfifo(path)
    path.chmod(0o666)
    return path


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


async def _until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(SECONDS):
        while not condition():
            await trio.lowlevel.checkpoint()


async def _run(
    program: PhpProgram,
    script: Path,
    *,
    children: int = 2,
    save_seconds: float = 30,
    message_octets: int = 1 << 20,
    task_status: trio.TaskStatus[Path] = trio.TASK_STATUS_IGNORED,
) -> None:
    with trio.fail_after(SECONDS):
        await run_php(
            program,
            scripts=[script],
            children=children,
            user=script_user(),
            message_octets=message_octets,
            save_seconds=save_seconds,
            log=structlog.get_logger(),
            task_status=task_status,
        )


@asynccontextmanager
async def _running(run: Callable[..., Awaitable[None]]) -> AsyncIterator[Path]:
    async with trio.open_nursery() as nursery:
        path: Path = await nursery.start(run)
        yield path
        nursery.cancel_scope.cancel()


async def _call(path: Path, script: Path, **fields: str) -> Answer:
    return await trio.to_thread.run_sync(partial(call_script, path, script, post=fields))


async def _parent(path: Path, script: Path) -> int:
    return int(json.loads((await _call(path, script)).text)["parent"])


# Finding it


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        pytest.param([], None, id="nothing"),
        pytest.param(["php", "php8.2", "php-fpm8.2.conf", "phpenmod"], None, id="other-php-files"),
        pytest.param(["php-fpm8.2"], "php-fpm8.2", id="debian"),
        pytest.param(["php-fpm83"], "php-fpm83", id="alpine"),
        pytest.param(["php-fpm"], "php-fpm", id="fedora-homebrew"),
        pytest.param(["php-fpm7.4", "php-fpm8.1", "php-fpm8.10", "php-fpm8.2"], "php-fpm8.10", id="newest"),
        pytest.param(["php-fpm7", "php-fpm81", "php-fpm83"], "php-fpm83", id="newest-without-dots"),
        pytest.param(["php-fpm", "php-fpm8.2"], "php-fpm8.2", id="version-before-none"),
        pytest.param(["php-cgi8.4", "php-fpm7.4"], "php-fpm7.4", id="fpm-before-cgi"),
        pytest.param(["php-cgi", "php-cgi8.2"], "php-cgi8.2", id="only-cgi"),
    ],
)
def test_find_php(tmp_path: Path, names: list[str], expected: str | None) -> None:
    for name in names:
        (tmp_path / name).touch(0o755)
    found = find_php([tmp_path / "no-such-folder", tmp_path])
    if expected is None:
        assert found is None
    else:
        kind = PhpKind.FPM if "fpm" in expected else PhpKind.CGI
        assert found == PhpProgram(kind, tmp_path / expected)


@dataclass(frozen=True)
class Distribution:
    """What packages put where, as paths below the root, and what is to be found."""

    id: str
    files: tuple[str, ...]
    found: str
    links: Mapping[str, str] = field(default_factory=dict)


DISTRIBUTIONS: Final = [
    Distribution(
        "debian-fpm",
        ("usr/sbin/php-fpm8.2", "usr/bin/php8.2", "usr/sbin/php-fpm8.2.dpkg-new", "etc/php/8.2/fpm/php-fpm.conf"),
        "usr/sbin/php-fpm8.2",
    ),
    Distribution(
        "debian-cgi",
        ("usr/bin/php-cgi8.2", "usr/bin/php8.2", "usr/lib/cgi-bin/php8.2"),
        "usr/bin/php-cgi8.2",
        {"etc/alternatives/php-cgi": "usr/bin/php-cgi8.2", "usr/bin/php-cgi": "etc/alternatives/php-cgi"},
    ),
    Distribution(
        "ubuntu-with-several", ("usr/sbin/php-fpm8.1", "usr/sbin/php-fpm8.3", "usr/bin/php8.3"), "usr/sbin/php-fpm8.3"
    ),
    Distribution("fedora-fpm", ("usr/sbin/php-fpm", "usr/bin/php-cgi", "usr/bin/php"), "usr/sbin/php-fpm"),
    Distribution("fedora-cgi", ("usr/bin/php-cgi", "usr/bin/php"), "usr/bin/php-cgi"),
    Distribution("fedora-one-bin", ("usr/bin/php-fpm", "usr/bin/php"), "usr/sbin/php-fpm", {"usr/sbin": "usr/bin"}),
    Distribution("alpine-fpm", ("usr/sbin/php-fpm83", "usr/bin/php-cgi83", "usr/bin/php83"), "usr/sbin/php-fpm83"),
    Distribution("alpine-cgi", ("usr/bin/php-cgi83", "usr/bin/php83"), "usr/bin/php-cgi83"),
    Distribution(
        "homebrew-on-apple-silicon",
        ("opt/homebrew/Cellar/php/8.4.1/sbin/php-fpm", "opt/homebrew/opt/php@8.3/sbin/php-fpm"),
        "opt/homebrew/sbin/php-fpm",
        {"opt/homebrew/sbin/php-fpm": "opt/homebrew/Cellar/php/8.4.1/sbin/php-fpm"},
    ),
    Distribution("homebrew-on-intel", ("usr/local/sbin/php-fpm", "usr/local/bin/php-cgi"), "usr/local/sbin/php-fpm"),
    Distribution(
        "homebrew-on-linux", ("home/linuxbrew/.linuxbrew/sbin/php-fpm",), "home/linuxbrew/.linuxbrew/sbin/php-fpm"
    ),
    Distribution(
        "homebrew-with-unlinked-versions",
        ("opt/homebrew/opt/php@8.2/sbin/php-fpm", "opt/homebrew/opt/php@8.10/sbin/php-fpm", "opt/homebrew/opt/php@x/a"),
        "opt/homebrew/opt/php@8.10/sbin/php-fpm",
    ),
    Distribution("homebrew-cgi", ("opt/homebrew/opt/php@8.2/bin/php-cgi",), "opt/homebrew/opt/php@8.2/bin/php-cgi"),
    Distribution("container-of-php", ("usr/local/sbin/php-fpm", "usr/local/bin/php-cgi"), "usr/local/sbin/php-fpm"),
]


@pytest.mark.parametrize("distribution", DISTRIBUTIONS, ids=attrgetter("id"))
def test_php_is_found_where_distributions_have_it(
    distribution: Distribution, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a PATH that an ordinary user has, or cron: it names none of these folders."""
    monkeypatch.setenv("PATH", "/nowhere")
    for name in distribution.files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch(0o644 if name.endswith((".conf", ".dpkg-new")) else 0o755)
    for link, target in reversed([*distribution.links.items()]):
        (tmp_path / link).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / link).symlink_to(tmp_path / target)
    kind = PhpKind.FPM if "fpm" in distribution.found else PhpKind.CGI
    assert find_php(default_search(tmp_path)) == PhpProgram(kind, tmp_path / distribution.found)


def test_find_php_passes_over_what_cannot_run(tmp_path: Path) -> None:
    (tmp_path / "php-fpm8.4").touch(0o644)
    (tmp_path / "php-fpm8.3").mkdir()
    (tmp_path / "php-fpm8.2").touch(0o755)
    assert find_php([tmp_path]) == PhpProgram(PhpKind.FPM, tmp_path / "php-fpm8.2")


def test_find_php_takes_the_first_folder_of_equals(tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "php-fpm8.2").touch(0o755)
    found = find_php([tmp_path / "first", tmp_path / "second"])
    assert found == PhpProgram(PhpKind.FPM, tmp_path / "first" / "php-fpm8.2")


def test_search_has_sbin_and_no_relative_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """/usr/sbin is missing in an ordinary user's PATH; "." in it would run whatever lies here."""
    monkeypatch.setenv("PATH", ".:bin:/opt/mine::/usr/bin")
    search = default_search()
    assert Path("/usr/sbin") in search
    assert search[-1] == Path("/opt/mine")
    assert all(path.is_absolute() for path in search)
    assert len(set(search)) == len(search)


def test_the_text_for_a_missing_php_says_what_to_install() -> None:
    assert "apt-get install php-fpm" in PHP_MISSING
    assert "--fastcgi" in PHP_MISSING


# Whom it runs as


def _me() -> str:
    return pwd.getpwuid(os.geteuid()).pw_name


@pytest.mark.parametrize(
    ("wanted", "euid", "words"),
    [
        pytest.param("root", 0, "never run as root", id="root-asks-for-root"),
        pytest.param(None, 0, "belongs to root", id="root-and-the-script-too"),
        pytest.param("no-such-user", 0, "no such user", id="unknown-as-root"),
        pytest.param("no-such-user", 12345, "no such user", id="unknown-as-user"),
        pytest.param("daemon", 12345, "only root", id="another-as-user"),
        pytest.param("root", 12345, "never run as root", id="root-as-user"),
    ],
)
def test_refused_users(wanted: str | None, euid: int, words: str) -> None:
    root_owned = Path("/etc/passwd")
    with pytest.raises(PhpError, match=words):
        choose_user([root_owned], wanted, euid=euid)


def test_a_missing_script_is_told_before_its_owner(tmp_path: Path) -> None:
    with pytest.raises(PhpError, match=r"gone\.php: No such file"):
        choose_user([tmp_path / "gone.php"], None, euid=0)


def test_an_ordinary_user_runs_scripts_as_itself() -> None:
    assert choose_user([Path("/etc/passwd")], None, euid=12345) is None
    daemon = pwd.getpwnam("daemon")
    assert choose_user([Path("/etc/passwd")], "daemon", euid=daemon.pw_uid) is None


def test_root_names_a_user() -> None:
    user = choose_user([Path("/etc/passwd")], "daemon", euid=0)
    entry = pwd.getpwnam("daemon")
    assert user is not None
    assert (user.name, user.uid, user.gid) == ("daemon", entry.pw_uid, entry.pw_gid)
    assert entry.pw_gid in user.groups


@AS_ROOT
def test_root_takes_the_owner_of_the_first_script(tmp_path: Path) -> None:
    daemon, other = _script(tmp_path), _script(tmp_path, name="validate.php")
    os.chown(daemon, pwd.getpwnam("daemon").pw_uid, 0)
    user = choose_user([daemon, other], None)
    assert user is not None
    assert user.name == "daemon"
    os.chown(daemon, 54321, 0)
    with pytest.raises(PhpError, match="54321, which has no account"):
        choose_user([daemon, other], None)


@AS_ROOT
@pytest.mark.trio
async def test_a_script_that_the_user_cannot_read(folder: Path) -> None:
    user = choose_user([folder], script_user())
    script = _script(folder)
    await check_readable([script], user)
    script.chmod(0o600)
    with pytest.raises(PhpError, match=rf"who\.php: user {script_user()} cannot read it"):
        await check_readable([script], user)


@AS_ROOT
@pytest.mark.trio
async def test_a_folder_that_the_user_cannot_pass(folder: Path) -> None:
    closed = folder / "it's closed"
    closed.mkdir(mode=0o700)
    user = choose_user([folder], script_user())
    with pytest.raises(PhpError, match=r"cannot pass .*/it's closed; "):
        await check_readable([_script(closed)], user)


@NOT_AS_ROOT
@pytest.mark.trio
async def test_a_script_that_we_cannot_read(folder: Path) -> None:
    script = _script(folder)
    await check_readable([script], None)
    script.chmod(0)
    with pytest.raises(PhpError, match="we cannot read it"):
        await check_readable([script], None)


@pytest.mark.trio
async def test_scripts_must_be_files(folder: Path) -> None:
    for path in (folder, folder / "gone.php"):
        with pytest.raises(PhpError, match="there is no such file"):
            await check_readable([path], None)


@AS_ROOT
@pytest.mark.trio
async def test_as_root_with_a_script_of_root_nothing_starts(folder: Path, private: Path) -> None:
    with pytest.raises(PhpError, match="--php-user"):
        await run_php(
            require_php(),
            scripts=[_script(folder)],
            children=1,
            user=None,
            message_octets=0,
            save_seconds=30,
            log=structlog.get_logger(),
        )
    assert _entries(private) == []


# Running it


@BOTH_KINDS
@pytest.mark.trio
async def test_it_serves_and_leaves_nothing(
    folder: Path, private: Path, kind: PhpKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also: a body above PHP's own post_max_size (8 MB), our environment, never as root, only for us."""
    monkeypatch.setenv("FCGIMAIL_WORD", "hello")
    script = _script(folder)
    async with _running(partial(_run, require_php(kind), script, message_octets=10_000_000)) as path:
        answer = await _call(path, script, body="x" * 9_000_000)
        said = json.loads(answer.text)
        entry = pwd.getpwnam(script_user() or _me())
        assert answer.end == (0, 0)
        assert (said["uid"], said["gid"]) == (entry.pw_uid, entry.pw_gid)
        assert said["uid"] != 0
        assert (said["word"], said["body"], said["display_errors"]) == ("hello", 9_000_000, "0")
        assert int(said["memory_limit"]) >= 128 * 1024**2 + 5 * 10_000_000
        assert path.parent.stat().st_mode & 0o777 == 0o700
        master = said["parent"]
        workers = children_of(master)
        assert len(workers) == 2
        assert os.getsid(master) != os.getsid(0)  # Ctrl-C is for us alone
    for pid in (master, *workers):
        wait_gone(pid, 0)
    assert _entries(private) == []
    assert master not in children_of(os.getpid())


@BOTH_KINDS
@pytest.mark.trio
async def test_errors_go_to_stderr_whatever_php_ini_says(
    folder: Path, private: Path, kind: PhpKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    hostile = f"display_errors=1\nlog_errors=0\nerror_log={folder}/errors\npost_max_size=10\noutput_buffering=0\n"
    _script(folder, hostile, "php.ini")
    monkeypatch.setenv("PHPRC", str(folder))
    script = _script(folder, "<?php echo 'SAVED ', strlen($_POST['body']); no_such_function();")
    async with _running(partial(_run, require_php(kind), script)) as path:
        answer = await _call(path, script, body="0123456789")
    assert answer.text == "SAVED 10"
    assert "Status: 500" in answer.head
    assert "no_such_function" in answer.stderr
    assert [path.name for path in _entries(folder)] == ["php.ini", "tmp", "who.php"]


@BOTH_KINDS
@pytest.mark.trio
async def test_a_killed_php_is_started_again(folder: Path, private: Path, kind: PhpKind) -> None:
    """Its workers outlive the parent and would go on answering: they must be gone before the next start."""
    script = _script(folder)
    with capture_logs() as logs:
        async with _running(partial(_run, require_php(kind), script)) as path:
            first = await _parent(path, script)
            workers = children_of(first)
            os.kill(first, signal.SIGKILL)
            for pid in (first, *workers):
                await trio.to_thread.run_sync(wait_gone, pid)
            await _until(lambda: "php is back" in [line["event"] for line in logs])
            second = await _parent(path, script)
    assert second != first
    wait_gone(second, 0)
    events = {line["event"]: line for line in logs}
    assert events["php stopped, starting it again"]["end"] == "was killed by signal 9"
    assert events["php stopped, starting it again"]["in_seconds"] == phpprocess.FIRST_PAUSE_SECONDS


@BOTH_KINDS
@pytest.mark.trio
async def test_a_script_under_way_may_finish(folder: Path, private: Path, kind: PhpKind) -> None:
    begun = _fifo(folder)
    source = f"<?php file_put_contents('{begun}', 'x'); $end = microtime(true) + 0.3;"
    script = _script(folder, source + "while (microtime(true) < $end) usleep(1000); echo 'SAVED';")
    answers: list[Answer] = []

    async def call(path: Path) -> None:
        answers.append(await _call(path, script))

    async with trio.open_nursery() as outside, _running(partial(_run, require_php(kind), script)) as path:
        outside.start_soon(call, path)
        assert await trio.to_thread.run_sync(begun.read_text) == "x"
    assert [(answer.text, answer.end) for answer in answers] == [("SAVED", (0, 0))]


@BOTH_KINDS
@pytest.mark.trio
async def test_a_script_that_hangs_is_ended_with_the_rest(
    folder: Path, private: Path, kind: PhpKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(phpprocess, "STOP_SECONDS", 2)
    monkeypatch.setattr(php, "STOP_SECONDS", 2)
    begun = _fifo(folder)
    script = _script(folder, f"<?php file_put_contents('{begun}', getmypid()); while (true) usleep(1000);")
    answers: list[Answer | OSError] = []

    async def call(path: Path) -> None:
        try:
            answers.append(await _call(path, script))
        except OSError as error:
            answers.append(error)

    async with trio.open_nursery() as outside:
        async with _running(partial(_run, require_php(kind), script, children=1)) as path:
            outside.start_soon(call, path)
            worker = int(await trio.to_thread.run_sync(begun.read_text))
        wait_gone(worker, 0)
    (answer,) = answers
    assert isinstance(answer, OSError) or answer.end is None
    assert _entries(private) == []


@pytest.mark.trio
async def test_a_script_beyond_its_time_is_killed(folder: Path, private: Path) -> None:
    script = _script(folder, "<?php while (true) usleep(1000);")
    async with _running(partial(_run, require_php(), script, save_seconds=0.5)) as path:
        try:
            answer = await _call(path, script)
        except ConnectionResetError:
            return
    assert answer.end is None


_SERVER: Final = """
import functools, sys, trio, pathlib, tempfile
import structlog
from trio_fcgimail.server.php import PhpKind, PhpProgram, run_php
async def main():
    kind, program, script, user, tempfile.tempdir = sys.argv[1:]
    async with trio.open_nursery() as nursery:
        path = await nursery.start(functools.partial(
            run_php, PhpProgram(PhpKind(kind), pathlib.Path(program)), scripts=[pathlib.Path(script)], children=1,
            user=user or None, message_octets=0, log=structlog.get_logger(), save_seconds=30))
        print(path, flush=True)
trio.run(main)
"""


@BOTH_KINDS
def test_php_ends_with_a_server_that_is_killed(folder: Path, private: Path, kind: PhpKind) -> None:
    program, script = require_php(kind), _script(folder)
    arguments = [kind.value, str(program.path), str(script), script_user() or "", str(private)]
    with subprocess.Popen([sys.executable, "-c", _SERVER, *arguments], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        for line in server.stdout:
            if line.startswith(str(private)):
                path = Path(line.strip())
                break
        else:
            pytest.fail("it did not start")
        worker_parent = json.loads(call_script(path, script, post={}).text)["parent"]
        family = children_of(server.pid)
        assert worker_parent in family
        workers = children_of(worker_parent)
        server.kill()
    for pid in (*family, *workers):
        wait_gone(pid)
    assert _entries(private) == []


# What does not start, and what does not stay


@pytest.mark.trio
async def test_a_missing_program(folder: Path, private: Path) -> None:
    with pytest.raises(PhpError, match="/no/php-fpm cannot be run: No such file"):
        await _run(PhpProgram(PhpKind.FPM, Path("/no/php-fpm")), _script(folder))
    assert _entries(private) == []


@pytest.mark.trio
async def test_an_error_in_the_configuration_is_quoted(folder: Path, private: Path) -> None:
    with pytest.raises(PhpError, match=r"(?s)ended with code \d+\n.*pm\.max_children must be a positive value"):
        await _run(require_php(), _script(folder), children=0)
    assert _entries(private) == []


def _pretender(folder: Path, source: str) -> PhpProgram:
    """A program that is called as php-fpm is, for what no real one does on demand."""
    path = folder / "php-fpm"
    path.write_text(f"#!{sys.executable}\n{source}")
    path.chmod(0o755)
    return PhpProgram(PhpKind.FPM, path)


@pytest.mark.trio
async def test_output_is_bounded_and_clean(folder: Path, private: Path) -> None:
    source = (
        "import os\n"
        "os.write(1, b'a' * 5000 + b'\\n\\n  \\x1b[31mred\\x00\\xff\\r\\n')\n"
        "for n in range(100): os.write(2, b'WARNING: %d\\n' % n)\n"
        "os.write(2, b'no line end')\n"
        "raise SystemExit(3)"
    )
    with capture_logs() as logs, pytest.raises(PhpError) as caught:
        await _run(_pretender(folder, source), _script(folder))
    lines = [line["line"] for line in logs]
    warnings = [f"WARNING: {n}" for n in range(100)]
    assert lines == ["a" * phpprocess.LINE_OCTETS, "[31mred \ufffd", *warnings, "no line end"]
    assert [line["log_level"] for line in logs] == ["info"] * 2 + ["warning"] * 100 + ["info"]
    quoted = str(caught.value).split("\n")
    assert quoted[0].endswith("ended with code 3")
    assert quoted[1:] == [f"  {line}" for line in lines[-phpprocess.QUOTED_LINES :]]


@pytest.mark.trio
async def test_a_program_that_never_listens(folder: Path, private: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phpprocess, "START_SECONDS", 0.2)
    program = _pretender(folder, "import signal\nwhile True: signal.pause()")
    with pytest.raises(PhpError, match=r"took no connection within 0\.2 s"):
        await _run(program, _script(folder))


@pytest.mark.trio
async def test_what_ignores_the_polite_signal_is_killed(
    folder: Path, private: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(phpprocess, "START_SECONDS", 2)  # enough for two lines of it on a busy machine
    monkeypatch.setattr(phpprocess, "STOP_SECONDS", 0.1)
    source = (
        "import os, signal\n"
        "signal.signal(signal.SIGQUIT, signal.SIG_IGN)\n"
        "os.write(1, b'pid %d %d\\n' % (os.getpid(), os.fork()))\n"  # in one piece each, as there are two who say it
        "while True: signal.pause()"
    )
    with capture_logs() as logs, pytest.raises(PhpError):
        await _run(_pretender(folder, source), _script(folder))
    said = [str(line.get("line", "")).split() for line in logs]
    pids = {int(word) for words in said if words[:1] == ["pid"] for word in words[1:]} - {0}
    assert len(pids) == 2
    for pid in pids:
        wait_gone(pid, 0)


_ONE_CONNECTION: Final = """
import re, socket, sys
path = re.search("listen = (.*)", open(sys.argv[-1]).read())[1]
with socket.socket(socket.AF_UNIX) as listener:
    listener.bind(path)
    listener.listen()
    listener.accept()
"""


@pytest.mark.parametrize(
    ("healthy", "expected"),
    [
        pytest.param(60.0, [0.01, 0.02, 0.03, 0.03], id="ever-longer-up-to-the-last"),
        pytest.param(0.0, [0.01, 0.01, 0.01, 0.01], id="short-again-after-a-healthy-run"),
    ],
)
@pytest.mark.trio
async def test_pauses_between_restarts(
    folder: Path, private: Path, monkeypatch: pytest.MonkeyPatch, healthy: float, expected: list[float]
) -> None:
    monkeypatch.setattr(phpprocess, "FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(phpprocess, "LAST_PAUSE_SECONDS", 0.03)
    monkeypatch.setattr(phpprocess, "HEALTHY_SECONDS", healthy)
    with capture_logs() as logs:
        async with _running(partial(_run, _pretender(folder, _ONE_CONNECTION), _script(folder))):
            await _until(lambda: sum("in_seconds" in line for line in logs) == len(expected))
    assert [line["in_seconds"] for line in logs if "in_seconds" in line] == expected


@pytest.mark.trio
async def test_a_program_that_vanishes_is_tried_again(
    folder: Path, private: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As during an upgrade of the package."""
    monkeypatch.setattr(phpprocess, "FIRST_PAUSE_SECONDS", 0.01)
    program = _pretender(folder, f"import os\nos.unlink({str(folder / 'php-fpm')!r})\n{_ONE_CONNECTION}")
    with capture_logs() as logs:
        async with _running(partial(_run, program, _script(folder))):
            await _until(lambda: any("cannot be run" in str(line.get("end")) for line in logs))
            _pretender(folder, _ONE_CONNECTION)
            await _until(lambda: "php is back" in [line["event"] for line in logs])


@pytest.mark.trio
async def test_a_long_or_odd_temporary_folder_is_passed_over(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("with space", "x" * 100):
        odd = folder / name
        odd.mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(odd))
        script = _script(folder)
        async with _running(partial(_run, require_php(), script)) as path:
            assert path.parent.parent == Path("/tmp")
            assert (await _call(path, script)).end == (0, 0)
