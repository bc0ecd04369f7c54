"""Processes of a measurement: starting them, ending them, and what they have cost (Linux only)."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import select
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

from benchmarks.outcome import BenchmarkError

START_SECONDS: Final = 30.0
STOP_SECONDS: Final = 10.0
HOST: Final = "127.0.0.1"
_PORTS: Final = range(20_000, 32_768)  # ip(7): ip_local_port_range begins at 32768
_TICKS: Final = os.sysconf("SC_CLK_TCK")
_CPU_CLOCK_OF_PROCESS: Final = 2  # CPUCLOCK_SCHED of the kernel's posix-timers.h: all threads, in nanoseconds
_RESET_PEAK: Final = "5"  # proc(5), clear_refs


def free_port() -> int:
    """A port that nobody listens on, nor any client has: below those that the kernel deals out to clients.

    Whoever polls a port of theirs until somebody listens may be given that port, and reach itself.
    """
    for port in random.sample(_PORTS, len(_PORTS)):
        with contextlib.suppress(OSError), socket.create_server((HOST, port)):
            return port
    raise BenchmarkError("there is no free port")


def raise_descriptor_limit() -> None:
    """Let us, and whom we start, open as many files as we may."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@contextlib.contextmanager
def started(command: Sequence[str], *, log: Path, env: Mapping[str, str] | None = None) -> Iterator[int]:
    """Run a program, its output going to a file, and end it with all that it has started; gives its process id."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=os.environ | dict(env or {}),
            start_new_session=True,
        )
    try:
        yield process.pid
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(STOP_SECONDS)


def wait_gone(pid: int) -> None:
    """Wait for the end of a process that is no child of ours."""
    with contextlib.suppress(ProcessLookupError):
        descriptor = os.pidfd_open(pid)
        try:
            select.select([descriptor], [], [], STOP_SECONDS)
        finally:
            os.close(descriptor)


def wait_for_port(port: int, pid: int, log: Path) -> None:
    """Wait until somebody listens there.

    Raises:
        BenchmarkError: the process has ended instead, or takes too long.
    """
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=1):
            return
        if not _is_alive(pid):
            break
        time.sleep(0.02)
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    raise BenchmarkError("does not start: " + " / ".join(lines[-3:]))


def _is_alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


@contextlib.contextmanager
def open_folder() -> Iterator[Path]:
    """A new folder that every user may enter and write to."""
    with tempfile.TemporaryDirectory(prefix="fcgimail-bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o777)
        yield folder


def tree(root: int) -> list[int]:
    """A process and all that descend from it."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parent = int(stat.read_text(errors="replace").rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(stat.parent.name))
    found, new = [], [root]
    while new:
        found += new
        new = [child for parent in new for child in children.get(parent, ())]
    return found


@final
@dataclass(frozen=True, slots=True)
class Meter:
    """Reads what a process tree has cost so far.

    Args:
        root: its first process; None for a part that there is not.
    """

    root: int | None

    def cpu_seconds(self) -> float:
        """User and system time of all that live, and of all that ended and were waited for."""
        return 0.0 if self.root is None else sum(_cpu_seconds(pid) for pid in tree(self.root))

    def reset_peak(self) -> None:
        """Forget the peak of memory."""
        for pid in [] if self.root is None else tree(self.root):
            with contextlib.suppress(OSError):
                Path(f"/proc/{pid}/clear_refs").write_text(_RESET_PEAK)

    def peak_mib(self) -> float | None:
        """The peaks of all processes that live, added up."""
        return self._memory("VmHWM:")

    def resident_mib(self) -> float | None:
        """What they have now, added up."""
        return self._memory("VmRSS:")

    def _memory(self, name: str) -> float | None:
        return None if self.root is None else sum(_status_kib(pid, name) for pid in tree(self.root)) / 1024


def _cpu_seconds(pid: int) -> float:
    try:
        own = time.clock_gettime(~pid << 3 | _CPU_CLOCK_OF_PROCESS)
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return 0.0
    return own + (int(fields[13]) + int(fields[14])) / _TICKS  # cutime and cstime of proc(5)


def _status_kib(pid: int, name: str) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines():
            if line.startswith(name):
                return int(line.split()[1])
    return 0
