"""A real php-fpm for tests, and a small FastCGI client that owes nothing to the code under test.

Use it as a fixture::

    @pytest.fixture
    def php() -> Iterator[PhpFpm]:
        yield from php_fpm(children=2, ini={"display_errors": "1"})
"""

import contextlib
import grp
import os
import pwd
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Self
from urllib.parse import urlencode

import pytest

from trio_fcgimail.server.php import PHP_MISSING, PhpKind, PhpProgram, find_php

#: php-fpm is there within 50 ms; the rest is for a machine under load.
START_SECONDS = 20.0
STOP_SECONDS = 5.0
CALL_SECONDS = 20.0

_BEGIN, _END, _PARAMS, _STDIN, _STDOUT, _STDERR = 1, 3, 4, 5, 6, 7


def _missing(reason: str) -> NoReturn:
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def require_php(kind: PhpKind = PhpKind.FPM) -> PhpProgram:
    """The installed php-fpm (or php-cgi); without one the test fails under CI, and is skipped elsewhere."""
    program = find_php()
    if kind is PhpKind.CGI:
        path = shutil.which("php-cgi")
        program = None if path is None else PhpProgram(kind, Path(path))
    if program is None or program.kind is not kind:
        _missing(f"{kind.value} is needed. {PHP_MISSING}")
    return program


def script_user() -> str | None:
    """As whom scripts run when the tests run as root, who must not; None when they run as ourselves."""
    if os.geteuid() != 0:
        return None
    for name in ("www-data", "apache", "nobody"):
        with contextlib.suppress(KeyError):
            pwd.getpwnam(name)
            return name
    _missing("as root, an account without rights is needed: www-data, apache or nobody")


@contextlib.contextmanager
def open_folder() -> Iterator[Path]:
    """A new folder that every user may enter and write to (pytest's own ones are closed to others)."""
    folder = Path(tempfile.mkdtemp(prefix="fcgimail-test-"))
    folder.chmod(0o777)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def children_of(pid: int) -> list[int]:
    """The living children of a process, lowest pid first."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent = stat.read_text(errors="replace").rpartition(")")[2].split()[:2]
            if int(parent) == pid and state != "Z":
                found.append(int(stat.parent.name))
    return sorted(found)


def wait_gone(pid: int, seconds: float = CALL_SECONDS) -> None:
    """Wait for the end of a process that need not be ours; AssertionError when it outlives the given seconds."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([descriptor], [], [], seconds)[0], f"process {pid} is still there"
    finally:
        os.close(descriptor)


class PhpFpm:
    """A php-fpm with a configuration and a folder of its own; a context manager.

    Attributes:
        socket_path: Where it listens.
        data: A folder that scripts may write to.
    """

    def __init__(
        self,
        *,
        children: int = 2,
        ini: Mapping[str, str] | None = None,
        request_terminate_timeout: float = 0,
        env: Mapping[str, str] | None = None,
        pool: str = "",
        sample: str | None = None,
    ) -> None:
        """Prepare it; entering the context starts it.

        Args:
            children: Workers (pm=static).
            ini: php.ini settings, over those of a mail pool (errors to STDERR, none displayed, no size limits).
            request_terminate_timeout: Seconds until a running script is killed; 0 for never.
            env: Further environment, which scripts see with getenv().
            pool: Further lines for the pool's section.
            sample: Text of a whole pool file to use instead of all these, but for its socket, user and group.
        """
        self._program = require_php()
        self._folder = Path(tempfile.mkdtemp(prefix="fcgimail-fpm-"))
        self._folder.chmod(0o755)
        self.socket_path = self._folder / "fpm.sock"
        self.data = self._folder / "data"
        self._scripts = self._folder / "scripts"
        self._log = self._folder / "log"
        for folder, mode in ((self.data, 0o777), (self._scripts, 0o755)):
            folder.mkdir()
            folder.chmod(mode)
        settings = {
            "display_errors": "0",
            "log_errors": "1",
            "error_log": "",
            "output_buffering": "65536",
            "post_max_size": "0",
            "upload_max_filesize": "0",
            "memory_limit": "512M",
            "opcache.enable": "0",
        } | dict(ini or {})
        user = script_user()
        head = ["[global]", "daemonize = no", f"error_log = {self._log}"]
        own = [
            "[test]",
            f"listen = {self.socket_path}",
            "listen.mode = 0666",
            *([] if user is None else [f"user = {user}", f"group = {pwd.getpwnam(user).pw_gid}"]),
            "pm = static",
            f"pm.max_children = {children}",
            f"request_terminate_timeout = {request_terminate_timeout:g}s",
            "catch_workers_output = yes",
            "clear_env = no",
            *(f"php_admin_value[{name}] = {value}" for name, value in settings.items()),
            pool,
            "",
        ]
        self._configuration = "\n".join(head + (own if sample is None else [_as_ours(sample, user, self.socket_path)]))
        self._env = os.environ | dict(env or {})
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def address(self) -> str:
        """The address as configuration files have it."""
        return f"unix:{self.socket_path}"

    @property
    def master_pid(self) -> int:
        """The process id of the running master."""
        assert self._process is not None, "php-fpm is not running"
        return self._process.pid

    def child_pids(self) -> list[int]:
        """The process ids of the workers."""
        return children_of(self.master_pid)

    def log_text(self) -> str:
        """What php-fpm has written to its own log so far."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def script(self, name: str, source: str) -> str:
        """Write a script that PHP can read, and return its absolute path."""
        path = self._scripts / name
        path.write_text(source)
        path.chmod(0o644)
        return str(path)

    def start(self) -> None:
        """Start it, and return when it takes connections; also again after :meth:`stop`."""
        assert self._process is None, "php-fpm is running already"
        path = self._folder / "php-fpm.conf"
        path.write_text(self._configuration)
        self._process = subprocess.Popen(
            [str(self._program.path), "--nodaemonize", "--fpm-config", str(path)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=self._env,
            start_new_session=True,
        )
        tick = 0.01
        for _ in range(int(START_SECONDS / tick)):
            with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(OSError):
                probe.connect(str(self.socket_path))
                return
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(tick)
                break
        self.stop()
        pytest.fail(f"php-fpm does not start:\n{self.log_text()}")

    def stop(self) -> None:
        """End it with all its workers; what they are doing is cut. Does nothing when it does not run."""
        if self._process is None:
            return
        process, self._process = self._process, None
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(STOP_SECONDS)

    def kill_child(self, pid: int) -> None:
        """SIGKILL one of the workers."""
        assert pid in self.child_pids(), f"{pid} is no worker of this php-fpm"
        os.kill(pid, signal.SIGKILL)


def _as_ours(sample: str, user: str | None, socket_path: Path) -> str:
    """A pool file with a socket, a user and a group that there are here."""
    account = pwd.getpwuid(os.geteuid()) if user is None else pwd.getpwnam(user)
    text = re.sub(r"(?m)^((?:listen\.)?group) = .*$", rf"\1 = {grp.getgrgid(account.pw_gid).gr_name}", sample)
    text = re.sub(r"(?m)^(user|listen\.owner) = .*$", rf"\1 = {account.pw_name}", text)
    text, found = re.subn(r"(?m)^listen = .*$", f"listen = {socket_path}", text)
    assert found == 1, "a sample of one pool has one listen line"
    return text


def php_fpm(
    *,
    children: int = 2,
    ini: Mapping[str, str] | None = None,
    request_terminate_timeout: float = 0,
    env: Mapping[str, str] | None = None,
    pool: str = "",
) -> Iterator[PhpFpm]:
    """A running php-fpm, to ``yield from`` in a fixture; arguments as :class:`PhpFpm` has them."""
    with PhpFpm(
        children=children, ini=ini, request_terminate_timeout=request_terminate_timeout, env=env, pool=pool
    ) as php:
        yield php


@dataclass(frozen=True, slots=True)
class Answer:
    """What a script answered.

    Attributes:
        head: The CGI header fields, as sent.
        text: The content after them.
        stderr: What PHP wrote to STDERR.
        end: appStatus and protocolStatus; None when the connection ended without END_REQUEST.
    """

    head: str
    text: str
    stderr: str
    end: tuple[int, int] | None


def _record(kind: int, content: bytes = b"") -> bytes:
    return struct.pack(">BBHHBx", 1, kind, 1, len(content), 0) + content


def _stream(kind: int, content: bytes) -> bytes:
    parts = (content[at : at + 65535] for at in range(0, len(content), 65535))
    return b"".join(_record(kind, part) for part in parts) + _record(kind)


def _pairs(params: Mapping[str, str]) -> bytes:
    out = b""
    for name, value in params.items():
        octets = value.encode()
        out += struct.pack(">BI", len(name), len(octets) | 1 << 31) + name.encode() + octets
    return out


def call_script(
    socket_path: Path,
    script: str | Path,
    *,
    get: Mapping[str, str] | str = "",
    post: Mapping[str, str | bytes] | bytes | None = None,
    content_type: str = "application/x-www-form-urlencoded",
    keep: int | None = None,
    instead: Mapping[str, str] | None = None,
) -> Answer:
    """Make one FastCGI request and read its answer; blocks.

    Args:
        socket_path: Where PHP listens.
        script: Absolute path of the script.
        get: The query string, or its fields.
        post: The urlencoded form, or its fields; None for a GET request.
        content_type: Of what is posted.
        keep: Of the body, send only this many octets, but declare them all, and send no more after them; None for
            a whole body.
        instead: The parameters, all but CONTENT_LENGTH, when they are to be others than ours.
    """
    form = post if isinstance(post, bytes) else urlencode(post or {}).encode()
    params = {
        "SCRIPT_FILENAME": str(script),
        "REQUEST_METHOD": "GET" if post is None else "POST",
        "QUERY_STRING": get if isinstance(get, str) else urlencode(get),
        "CONTENT_LENGTH": "" if post is None else str(len(form)),
        "CONTENT_TYPE": "" if post is None else content_type,
    }
    if instead is not None:
        params = {**instead, "CONTENT_LENGTH": str(len(form))}
    begin = _record(_BEGIN, struct.pack(">HB5x", 1, 0))
    body = _stream(_STDIN, form) if keep is None else _record(_STDIN, form[:keep])
    with socket.socket(socket.AF_UNIX) as conn:
        conn.settimeout(CALL_SECONDS)
        conn.connect(str(socket_path))
        conn.sendall(begin + _stream(_PARAMS, _pairs(params)) + body)
        if keep is not None:
            conn.shutdown(socket.SHUT_WR)
        return _read_answer(conn)


def _read_answer(conn: socket.socket) -> Answer:
    output = {_STDOUT: bytearray(), _STDERR: bytearray()}
    end: tuple[int, int] | None = None
    with conn.makefile("rb") as stream:
        while end is None and len(header := stream.read(8)) == 8:
            _, kind, _, length, padding = struct.unpack(">BBHHBx", header)
            content = stream.read(length + padding)[:length]
            if kind == _END:
                app_status, protocol_status = struct.unpack(">IB3x", content)
                end = (app_status, protocol_status)
            else:
                output[kind] += content
    head, _, text = bytes(output[_STDOUT]).partition(b"\r\n\r\n")
    return Answer(head.decode(), text.decode(), bytes(output[_STDERR]).decode(), end)
