"""One PHP process group: start it, keep it running, end it. :mod:`.php` says what is started.

- PHP leads a session and process group of its own. A Ctrl-C in the terminal reaches us alone, so that requests
  under way can still be answered; and one signal to the group ends the workers too. The workers of php-fpm
  outlive a killed master, and would go on answering.
- A lifeline, a shell that waits for the end of a pipe which only we hold, ends PHP should we be killed with
  SIGKILL. ``PR_SET_PDEATHSIG`` would not do: it follows the thread that started the process, and Trio's worker
  threads come and go.
"""

import contextlib
import os
import signal
import socket
import subprocess
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import trio
from structlog.typing import FilteringBoundLogger

from trio_fcgimail.server.phpinstall import PhpError, PhpUser

__all__ = ["CONFIGURATION_NAME", "SOCKET_NAME", "STOP_SECONDS", "PhpPlan", "supervise"]

SOCKET_NAME: Final = "php.sock"
CONFIGURATION_NAME: Final = "php-fpm.conf"

#: How long PHP may take from its start to its first accepted connection. An idle machine needs some 50 ms.
START_SECONDS: Final = 15.0
#: How long PHP and its workers have to end after the polite signal.
STOP_SECONDS: Final = 10.0
#: How long we wait for processes after SIGKILL, and for the rest of their output.
KILL_SECONDS: Final = 2.0
#: Pauses before a restart: the first, then doubled up to the last; back to the first after a healthy run.
FIRST_PAUSE_SECONDS: Final = 1.0
LAST_PAUSE_SECONDS: Final = 30.0
HEALTHY_SECONDS: Final = 60.0
#: Of a line of PHP's output we keep this much; php-fpm cuts its own lines at 1,024 (``log_limit``).
LINE_OCTETS: Final = 2048
#: Lines that a PhpError quotes.
QUOTED_LINES: Final = 20

#: Waits for the end of standard input, then sends signal $3 to group $1 and removes folder $2.
_LIFELINE: Final = (
    f'read -r _; kill -s "$3" -- "-$1"; rm -f -- "$2/{SOCKET_NAME}" "$2/{CONFIGURATION_NAME}"; rmdir -- "$2"'
)


@dataclass(frozen=True, slots=True)
class PhpPlan:
    """All that one start of PHP needs.

    Attributes:
        argv: The command.
        environment: Its whole environment.
        folder: A folder of its own, where it makes its socket ``SOCKET_NAME``.
        stop: The signal that asks it to end.
        user: Whom the process itself becomes; None for nobody else.
        log: Where its output and its ends are told.
    """

    argv: tuple[str, ...]
    environment: dict[str, str]
    folder: Path
    stop: signal.Signals
    user: PhpUser | None
    log: FilteringBoundLogger

    @property
    def socket(self) -> Path:
        """Where it listens."""
        return self.folder / SOCKET_NAME


@dataclass(frozen=True, slots=True)
class _Life:
    """How one run of PHP went."""

    ready_seconds: float | None
    """From the first accepted connection to the end; None when there was none."""
    end: str
    output: tuple[str, ...]


async def supervise(plan: PhpPlan, task_status: trio.TaskStatus[Path]) -> None:
    """Run PHP until cancelled; when it ends by itself, start it again after a pause.

    Leaving, in whatever way, ends the whole process group first (shielded, within ``STOP_SECONDS`` and
    ``KILL_SECONDS``).

    Args:
        plan: What to run.
        task_status: Told the socket's path once PHP accepts connections there for the first time.

    Raises:
        PhpError: The first start failed; the text has PHP's own last lines. Later ones are logged and repeated.
    """
    life = await _live(plan, partial(task_status.started, plan.socket))
    if life.ready_seconds is None:
        quoted = "".join(f"\n  {line}" for line in life.output)
        raise PhpError(f"{plan.argv[0]} {life.end}{quoted}")
    pause = FIRST_PAUSE_SECONDS
    while True:
        if life.ready_seconds is not None and life.ready_seconds >= HEALTHY_SECONDS:
            pause = FIRST_PAUSE_SECONDS
        plan.log.error("php stopped, starting it again", program=plan.argv[0], end=life.end, in_seconds=pause)
        await trio.sleep(pause)
        pause = min(pause * 2, LAST_PAUSE_SECONDS)
        life = await _live(plan, partial(plan.log.info, "php is back", program=plan.argv[0]))


async def _live(plan: PhpPlan, on_ready: Callable[[], None]) -> _Life:
    """Start PHP once, stay with it to its end, and leave no process of it behind."""
    plan.socket.unlink(missing_ok=True)  # of the life before; php-fpm refuses to start where somebody listens
    try:
        process = await _open(plan)
    except OSError as error:
        return _Life(None, f"cannot be run: {error.strerror}", ())
    output: deque[str] = deque(maxlen=QUOTED_LINES)
    ready_seconds: float | None = None
    reading = trio.CancelScope(shield=True)  # PHP's last words count, also when we are cancelled
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_read_output, plan, process, output, reading)
        async with _lifeline(plan, process):
            try:
                if await _accepts(plan.socket, process):
                    since = trio.current_time()
                    on_ready()
                    await process.wait()
                    ready_seconds = trio.current_time() - since
                end = _end(process.returncode)
            finally:
                with trio.CancelScope(shield=True):
                    await _end_group(plan, process)
                reading.deadline = trio.current_time() + KILL_SECONDS
    return _Life(ready_seconds, end, tuple(output))


def _end(code: int | None) -> str:
    if code is None:
        return f"took no connection within {START_SECONDS:g} s"
    return f"ended with code {code}" if code >= 0 else f"was killed by signal {-code}"


async def _open(plan: PhpPlan) -> trio.Process:
    return await trio.lowlevel.open_process(
        list(plan.argv),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=plan.environment,
        cwd="/",
        start_new_session=True,
        user=None if plan.user is None else plan.user.uid,
        group=None if plan.user is None else plan.user.gid,
        extra_groups=None if plan.user is None else plan.user.groups,
    )


@contextlib.asynccontextmanager
async def _lifeline(plan: PhpPlan, process: trio.Process) -> AsyncIterator[None]:
    """While this lasts, PHP ends with us even if we are killed."""
    stop = plan.stop.name.removeprefix("SIG")
    try:
        with trio.CancelScope(shield=True):  # whoever enters this ends PHP on leaving, so it must be entered
            shell = await trio.lowlevel.open_process(
                ["/bin/sh", "-c", _LIFELINE, "sh", str(process.pid), str(plan.folder), stop],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                start_new_session=True,
            )
    except OSError as error:  # no reason to be without PHP
        plan.log.warning("php would outlive a kill of this server", reason=error.strerror)
        yield
        return
    try:
        yield
    finally:
        shell.kill()  # before its pipe closes, which is its signal to act
        with trio.CancelScope(shield=True):
            await shell.wait()
            if shell.stdin is not None:
                await shell.stdin.aclose()


async def _accepts(path: Path, process: trio.Process) -> bool:
    """Wait until PHP takes a connection: true; or until it ended or its time is up: false."""
    pause = 0.01
    with trio.move_on_after(START_SECONDS):
        while process.returncode is None:
            with socket.socket(socket.AF_UNIX) as probe:
                probe.setblocking(False)
                with contextlib.suppress(OSError):
                    probe.connect(str(path))
                    return True
            await trio.sleep(pause)
            pause = min(pause * 2, 0.2)
    return False


async def _end_group(plan: PhpPlan, process: trio.Process) -> None:
    """End PHP and its workers, politely and then with SIGKILL; workers may be left whose parent is gone."""
    for number, patience in ((plan.stop, STOP_SECONDS), (signal.SIGKILL, KILL_SECONDS)):
        pause = 0.002
        with trio.move_on_after(patience):
            present = _signal_group(process, number)
            while present:
                await trio.sleep(pause)
                pause = min(pause * 2, 0.1)
                present = _signal_group(process, None)
            return
    plan.log.error("processes of php do not end", group=process.pid)


def _signal_group(process: trio.Process, number: signal.Signals | None) -> bool:
    """Send a signal (None: only look) to PHP's group; returns whether anybody in it is alive."""
    leader_alive = process.returncode is None  # asking also reaps it
    try:
        os.killpg(process.pid, 0 if number is None else number)
    except (ProcessLookupError, PermissionError):  # the BSDs say the latter of groups of zombies
        return leader_alive
    return leader_alive or _has_living_member(process.pid)


def _has_living_member(group: int) -> bool:
    """Whether a group that exists is more than zombies: not every container has an init that reaps orphans.

    Where /proc tells nothing (it is Linux's), every member counts as alive.
    """
    stats = list(Path("/proc").glob("[0-9]*/stat"))
    for path in stats:
        with contextlib.suppress(OSError):  # it has ended meanwhile
            state, _, of_group = path.read_bytes().rpartition(b")")[2].split()[:3]  # proc(5); a name may have ")"
            if int(of_group) == group and state not in (b"Z", b"X"):
                return True
    return not stats


async def _read_output(plan: PhpPlan, process: trio.Process, tail: deque[str], scope: trio.CancelScope) -> None:
    """Hand PHP's own output to the log, line by line: bounded, and cleaned of controls."""
    if process.stdout is None:
        return
    line = bytearray()
    with scope:
        async with process.stdout as stream:
            async for chunk in stream:
                first, *rest = chunk.split(b"\n")
                line += first[: LINE_OCTETS - len(line)]
                for piece in rest:
                    _log_line(plan.log, line, tail)
                    line = bytearray(piece[:LINE_OCTETS])
    _log_line(plan.log, line, tail)


def _log_line(log: FilteringBoundLogger, line: bytearray, tail: deque[str]) -> None:
    text = line.decode("utf-8", "replace")
    text = "".join(char if char.isprintable() else " " for char in text).strip()
    if not text:
        return
    tail.append(text)
    if "ERROR:" in text or "ALERT:" in text or "WARNING:" in text:
        log.warning("php output", line=text)
    else:
        log.info("php output", line=text)
