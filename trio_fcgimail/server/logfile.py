"""Where log lines go: a thread of its own writes them, many at a time."""

from __future__ import annotations

import atexit
import os
import stat
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from io import FileIO
from pathlib import Path
from typing import Final, final

from trio_fcgimail.config import LogStream

MAX_WAITING_LINES: Final = 2048  # ours: half a second of a busy server, and never more than some 50 MB
LAST_SECONDS: Final = 1.0  # for what still waits when we end
GATHER_SECONDS: Final = 0.05  # ours: so long a line waits for others; each turn of the thread stops all others twice
_BATCH_OCTETS: Final = 65_536  # written at once; what a pipe holds (Linux, pipe(7))
_DESCRIPTORS: Final = {LogStream.STDERR: 2, LogStream.STDOUT: 1}  # POSIX, <unistd.h>

_Job = str | Callable[[], None]  # a line, or something to be done between two of them


def _open_itself(path: str, flags: int) -> int:
    """Open a file; as root by no link of others: who may write to a folder of logs could have us write anywhere."""
    if os.geteuid() == 0 and not _is_roots_own(Path(path).parent):
        flags |= os.O_NOFOLLOW
    return os.open(path, flags, 0o666)


def _is_roots_own(folder: Path) -> bool:
    """Whether all that stands there was put there by root, such as /dev/stdout."""
    status = folder.stat()
    return status.st_uid == 0 and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


@final
class LogFile:
    """Where lines go: a file that can be opened anew after logrotate has moved it, a stream that is open, or nowhere.

    A thread of its own writes, in the order of the calls: whoever logs never waits for a disk, nor for the reader of a
    pipe. A line that finds no room, or cannot be written, is lost, never the mail that it tells of.

    Whoever logs only appends to a queue, and wakes the thread when it sleeps; it then lets lines gather for a moment.
    Nothing here is locked but what counts losses: appending and taking from a deque are one step each.

    Attributes:
        on_loss: Called by that thread when lines were lost and there is room again, with their number.
    """

    def __init__(self, target: Path | LogStream) -> None:
        self.on_loss: Callable[[int], None] = lambda _lines: None
        self._target = target
        self._stream = self._open()
        self._has_reader = self._stream.isatty()  # kept, as the thread may close the stream at any time
        self._owed = b""  # the end of a line of which only a part could be written
        self._jobs: deque[_Job | None] = deque()  # None is the end
        self._taken = 0  # lines that are being written
        self._is_awake = False  # the thread, which looks at the queue once more before it sleeps
        self._called = threading.Event()
        self._hurried = threading.Event()
        self._lock = threading.Lock()
        self._lost = 0
        self._writer: threading.Thread | None = None

    def _open(self) -> FileIO:
        # Neither has a buffer: Python would wait for its lock at exit, though the thread may hold it for ever.
        match self._target:
            case Path() as path:
                return FileIO(path, "a", opener=_open_itself)
            case LogStream.OFF:
                return FileIO(os.devnull, "w")
            case LogStream.STDERR | LogStream.STDOUT as stream:
                return FileIO(_DESCRIPTORS[stream], "w", closefd=False)

    @property
    def has_reader(self) -> bool:
        """Whether a person reads along, so that colours help."""
        return self._has_reader

    def tell_losses(self, told: Callable[[int], None]) -> None:
        """Set ``on_loss``."""
        self.on_loss = told

    def line(self, text: str) -> None:
        """Have one line written."""
        waiting = len(self._jobs) + self._taken
        if waiting >= MAX_WAITING_LINES:
            with self._lock:
                self._lost += 1
            return
        self._jobs.append(text)
        if not self._is_awake:
            self._wake()
        if waiting == MAX_WAITING_LINES // 2:
            self._hurried.set()

    debug = info = warning = error = critical = exception = line  # the methods that structlog calls

    def flush(self) -> bool:
        """Wait until all is written, but not for long; whether it was."""
        written = threading.Event()
        self._order(written.set)
        return written.wait(LAST_SECONDS)

    def reopen(self) -> None:
        """Open the file anew, for all lines from here on. Raises OSError when that fails; the old one stays in use."""
        if isinstance(self._target, Path):
            self._order(partial(self._change_to, self._open()))

    def change_to(self, target: Path | LogStream) -> None:
        """Write elsewhere from here on. Raises OSError when that cannot be opened; then nothing changes."""
        before, self._target = self._target, target
        try:
            stream = self._open()
        except OSError:
            self._target = before
            raise
        self._order(partial(self._change_to, stream))

    def close(self) -> None:
        """Write what waits, if that can be done soon, and close the file; standard error and output stay open."""
        atexit.unregister(self.close)
        written = self.flush()
        self._order(None)
        if written and self._writer is not None:
            self._writer.join(LAST_SECONDS)

    def _order(self, job: Callable[[], None] | None) -> None:
        """Have something done at once, behind the lines so far."""
        self._jobs.append(job)
        self._hurried.set()
        self._wake()

    def _wake(self) -> None:
        """Call the thread, which begins with the first job."""
        self._is_awake = True
        self._called.set()
        if self._writer is None:
            with self._lock:
                if self._writer is None:
                    self._writer = threading.Thread(target=self._work, name="log", daemon=True)
                    self._writer.start()
                    atexit.register(self.close)

    # In the thread

    def _work(self) -> None:
        is_open = True
        while is_open:
            self._called.wait()
            self._called.clear()
            self._hurried.wait(GATHER_SECONDS)
            self._hurried.clear()
            self._is_awake = False  # before looking: who comes later calls again
            is_open = self._do_all()
        with suppress(OSError):
            self._stream.close()

    def _do_all(self) -> bool:
        """Empty the queue; whether there may be more, later."""
        jobs = self._jobs
        batch = bytearray()
        while jobs:
            job = jobs.popleft()
            if isinstance(job, str):
                self._taken += 1
                batch += job.encode("utf-8", "replace")
                batch += b"\n"
                if len(batch) < _BATCH_OCTETS:
                    continue
            if batch:
                self._write(bytes(batch))
                batch.clear()
            if job is None:
                return False
            if not isinstance(job, str):
                job()
        if batch:
            self._write(bytes(batch))
        return True

    def _write(self, lines: bytes) -> None:
        owed = len(self._owed)
        whole = rest = self._owed + lines
        with suppress(OSError):  # a full disk, or a reader that is gone
            while rest:
                rest = rest[os.write(self._stream.fileno(), rest) :]
        written = len(whole) - len(rest)
        if written:
            self._owed = b"" if whole[written - 1] == ord("\n") else b"\n"
        lost = rest.count(b"\n") - (0 if written else owed)
        self._taken = 0
        with self._lock:
            self._lost += lost
            told = 0 if rest or len(self._jobs) > MAX_WAITING_LINES // 2 else self._lost
            self._lost -= told
        if told:
            self.on_loss(told)

    def _change_to(self, stream: FileIO) -> None:
        old, self._stream, self._owed = self._stream, stream, b""
        self._has_reader = stream.isatty()
        with suppress(OSError):
            old.close()
