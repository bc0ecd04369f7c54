"""The product as its users run it: ``python -m trio_fcgimail ...`` in a process of its own.

Use a server as a context manager; leaving it without :meth:`ServerProcess.stop` kills it::

    with ServerProcess("serve", "-c", "fcgimail.toml", folder=tmp_path) as server:
        with smtplib.SMTP("127.0.0.1", server.port) as client:
            ...
        assert server.stop() == 0
"""

import itertools
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Self

#: Longer than anything here takes on a busy machine: a start, a restart of PHP, an end.
SECONDS: Final = 30.0
#: Sockets and files that were not closed are told on standard error, where :meth:`ServerProcess.stop` sees them.
PROGRAM: Final = (sys.executable, "-W", "default::ResourceWarning", "-m", "trio_fcgimail")
#: What systemd does between fork and exec: the sockets from 3 on, and who they are for.
_HAND_OVER: Final = """
import fcntl, os, sys
given = list(map(int, sys.argv[2].split(",")))
copies = [fcntl.fcntl(one, fcntl.F_DUPFD_CLOEXEC, 100) for one in given]
for one in given:
    os.close(one)
for number, one in enumerate(copies, 3):
    os.dup2(one, number)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(given)), "LISTEN_FDNAMES": sys.argv[1]}
os.execv(sys.argv[3], sys.argv[3:])
"""
_PORT: Final = re.compile(r"^(?=.*\blistening\b).*127\.0\.0\.1:(\d+)", re.MULTILINE)
_FAULT: Final = re.compile(r"Traceback|ResourceWarning|Exception ignored")


#: With these, coverage writes a file at the end of a process, which who is no longer root cannot.
MEASURING: Final = ("COVERAGE_PROCESS_CONFIG", "COVERAGE_PROCESS_START")


def environment(extra: Mapping[str, str | None] | None = None) -> dict[str, str]:
    """Ours, with tables wide enough that no line is folded.

    Args:
        extra: None takes a variable out.
    """
    wanted = os.environ | {"COLUMNS": "250"} | dict(extra or {})
    return {name: value for name, value in wanted.items() if value is not None}


#: For a server that gives up the rights of root.
UNMEASURED: Final[Mapping[str, None]] = dict.fromkeys(MEASURING)


def run_command(
    *arguments: str, folder: Path, env: Mapping[str, str | None] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run a command to its end; one that prints a traceback, whatever its exit code, is an AssertionError."""
    done = subprocess.run(
        [*PROGRAM, *arguments],
        cwd=folder,
        env=environment(env),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=SECONDS,
        check=False,
    )
    assert not _FAULT.search(done.stderr.decode()), done.stderr.decode()
    return done


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def eventually(condition: Callable[[], bool], what: str, seconds: float = SECONDS) -> None:
    """Wait until something outside of us has come true; AssertionError when it does not, for so long."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"this did not happen: {what}"
        time.sleep(0.01)


class _Output:
    """Reads one stream of a process in a thread, so that no pipe is ever full, and lets others wait for a line."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._changed = threading.Condition()
        self._ended = False

    def read(self, stream: IO[bytes]) -> None:
        """To the end."""
        while line := stream.readline():
            with self._changed:
                self._lines.append(line.decode("utf-8", "backslashreplace"))
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def text(self) -> str:
        with self._changed:
            return "".join(self._lines)

    def wait_for(self, pattern: re.Pattern[str], times: int = 1) -> re.Match[str]:
        """The first match, or a later one, as soon as it is there."""

        def found() -> re.Match[str] | None:
            return next(itertools.islice(pattern.finditer("".join(self._lines)), times - 1, None), None)

        with self._changed:
            self._changed.wait_for(lambda: self._ended or found() is not None, SECONDS)
            match = found()
            assert match is not None, f"no {pattern.pattern!r} in:\n{''.join(self._lines)}"
            return match


class ServerProcess:
    """A running server; a context manager that starts it and waits until it listens."""

    def __init__(
        self,
        *arguments: str,
        folder: Path,
        env: Mapping[str, str | None] | None = None,
        ready: Callable[["ServerProcess"], object] | None = None,
        sockets: Sequence[tuple[str, socket.socket]] = (),
        descriptors: int | None = None,
    ) -> None:
        """Prepare it.

        Args:
            arguments: of the command line.
            folder: where it runs.
            env: further environment.
            ready: waits until it serves; by default for the log line that it listens, which tells the port.
            sockets: what it gets as from systemd, with their names.
            descriptors: how many files each of its processes may have open; None for as many as we may.
        """
        self._folder = folder
        self._env = environment(env)
        self._handed = [sock.fileno() for _, sock in sockets]
        self._command = [*PROGRAM, *arguments]
        if sockets:
            names = ":".join(name for name, _ in sockets)
            self._command[:0] = [sys.executable, "-c", _HAND_OVER, names, ",".join(map(str, self._handed))]
        if descriptors is not None:
            self._command[:0] = ["/bin/sh", "-c", 'ulimit -n "$0" && exec "$@"', str(descriptors)]
        self._ready = ServerProcess._listening if ready is None else ready
        self._out, self._err = _Output(), _Output()
        self._process: subprocess.Popen[bytes] | None = None
        self._readers: list[threading.Thread] = []
        self.port = 0

    def __enter__(self) -> Self:
        process = self._process = subprocess.Popen(
            self._command,
            cwd=self._folder,
            env=self._env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=self._handed,
        )
        for stream, output in ((process.stdout, self._out), (process.stderr, self._err)):
            assert stream is not None
            reader = threading.Thread(target=output.read, args=(stream,))
            reader.start()
            self._readers.append(reader)
        try:
            self._ready(self)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _end(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait(SECONDS)
        for reader in self._readers:
            reader.join(SECONDS)
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()

    def _listening(self) -> None:
        self.port = int(self._err.wait_for(_PORT)[1])

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> str:
        """Standard error so far."""
        return self._err.text()

    @property
    def shown(self) -> str:
        """Standard output so far."""
        return self._out.text()

    def wait_for_log(self, pattern: str, times: int = 1) -> re.Match[str]:
        """Wait until standard error matches somewhere, and so often."""
        return self._err.wait_for(re.compile(pattern), times)

    def wait_for_shown(self, pattern: str) -> re.Match[str]:
        """Wait until standard output matches somewhere."""
        return self._out.wait_for(re.compile(pattern))

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def wait(self) -> int:
        """Wait for its end, which must not have been a fault; returns the exit code."""
        assert self._process is not None
        code = self._process.wait(SECONDS)
        for reader in self._readers:
            reader.join(SECONDS)
        assert not _FAULT.search(self.log), self.log
        return code

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        """Ask it to end and wait for that; returns the exit code."""
        self.send(number)
        return self.wait()
