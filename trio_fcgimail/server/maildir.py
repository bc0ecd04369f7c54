"""Storing mail in a Maildir, so that a mail which is said to be stored is on the disk, and a retry is stored once.

The standard library's ``mailbox`` is of no use here: it takes a whole mail at once, does not sync the folder, and
knows of no retries. The rules are few (https://cr.yp.to/proto/maildir.html): write in ``tmp``, sync, then move to
``new`` under a name that nobody else can have.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Final, TypeVar, final

import trio

LOOK_BACK_SECONDS: Final = 12 * 3600  # a retry of the same mail comes within hours; a copy sent next week is meant
MAX_LOOKED_AT: Final = 100_000  # ours: names in a folder, in some 100 ms; a retry may be stored twice behind them
CLOSE_SECONDS: Final = 5.0  # ours: to remove what is not complete; later a thread does it alone
_BLOCK_OCTETS: Final = 262_144  # what is written at once: a thread for each record would cost more than the disk
_MAX_HOST_CHARACTERS: Final = 100  # keeps a name, digest and flags included, below the 255 octets of a file name
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_NAME: Final = re.compile(r"(?P<seconds>[0-9]{1,20})\.[^.,:]+")
_ODD_IN_HOST: Final = re.compile(r"[^A-Za-z0-9.\\-]")
_KEPT_ID: Final = -1  # chown(2): leave it

T = TypeVar("T")


class Novelty(Enum):
    """Whether a mail was stored just now."""

    NEW = "stored"
    KNOWN = "already stored"


@final
@dataclass(frozen=True, slots=True)
class Stored:
    """A mail that is on the disk.

    Args:
        identifier: how its file name begins, up to the second dot; letters, digits and dots, at most 64.
    """

    identifier: str
    novelty: Novelty


@final
@dataclass(frozen=True, slots=True)
class Owner:
    """Whom files and folders are given to, when that is permitted; None leaves it as it is."""

    uid: int | None = None
    gid: int | None = None

    def take(self, target: int | Path) -> None:
        """Give away a file that is open, or a folder."""
        if self.uid is not None or self.gid is not None:
            with contextlib.suppress(PermissionError):
                os.chown(target, _KEPT_ID if self.uid is None else self.uid, _KEPT_ID if self.gid is None else self.gid)


@final
class Maildir:
    """One Maildir, whose folders are made when they are missing.

    Whoever waits here may be cancelled at any time: what a thread is doing then ends without him, and leaves nothing
    in ``tmp``. A mail that was just being moved may be stored though nobody was told; the retry finds it.

    Args:
        path: the folder that holds ``tmp``, ``new`` and ``cur``; the one above it must be there.
        host: the name of this machine, for the names of the files.
        look_back_seconds: how long a mail of the same digest is taken for a retry. It is looked for in ``new`` and
            ``cur``, among ``MAX_LOOKED_AT`` names each; one that was deleted or moved elsewhere is not found, nor one
            that another process is storing at that moment.
        limiter: of the threads; None for Trio's own.
        clock: nanoseconds since the epoch.
    """

    def __init__(
        self,
        path: Path,
        *,
        host: str,
        owner: Owner = Owner(),
        look_back_seconds: int = LOOK_BACK_SECONDS,
        limiter: trio.CapacityLimiter | None = None,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._path = path
        escaped = host.replace("/", r"\057").replace(":", r"\072")  # https://cr.yp.to/proto/maildir.html
        self._host = _ODD_IN_HOST.sub("_", escaped)[:_MAX_HOST_CHARACTERS]
        self._owner = owner
        self._look_back_seconds = look_back_seconds
        self._clock = clock
        self._numbers = itertools.count(1)
        self.limiter = limiter
        self.publishing = trio.Lock()  # else two copies at the same time would both be new

    async def prepare(self) -> None:
        """Make the folders that are missing, with mode 0700. Raises OSError."""
        await trio.to_thread.run_sync(self._make_folders)

    def delivery(self) -> Delivery:
        """Begin to store a mail."""
        seconds, nanoseconds = divmod(self._clock(), 1_000_000_000)
        identifier = f"{seconds}.M{nanoseconds // 1000}P{os.getpid()}Q{next(self._numbers)}"
        return Delivery(self, identifier)

    # For Delivery, in threads

    def open(self, identifier: str) -> int:
        """Open a new file in ``tmp``. Raises OSError."""
        self._make_folders()
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(self.draft(identifier), flags, 0o600)
        self._owner.take(descriptor)
        return descriptor

    def draft(self, identifier: str) -> Path:
        """Where a mail is while it is not complete."""
        return self._path / "tmp" / f"{identifier}.{self._host}"

    def publish(self, identifier: str, digest: str) -> Stored:
        """Move a complete file to ``new``, unless the same mail is there already. Raises OSError."""
        known = self._find(digest)
        if known is None:
            self.draft(identifier).rename(self._path / "new" / f"{identifier}.{self._host},D={digest}")
        else:
            self.draft(identifier).unlink()
        _sync_folder(self._path / "new")  # also for a known one: the first try may have failed right here
        return Stored(identifier, Novelty.NEW) if known is None else Stored(known, Novelty.KNOWN)

    def _find(self, digest: str) -> str | None:
        """The identifier of the same mail, stored not long ago. A reader moves files from ``new`` to ``cur``."""
        oldest = self._clock() // 1_000_000_000 - self._look_back_seconds
        mark = f",D={digest}"
        for folder in ("new", "cur"):
            with os.scandir(self._path / folder) as entries:
                for entry in itertools.islice(entries, MAX_LOOKED_AT):
                    if mark not in entry.name or (found := _NAME.match(entry.name)) is None:
                        continue
                    if int(found["seconds"]) > oldest:
                        return found[0]
        return None

    def _make_folders(self) -> None:
        folders = [self._path, *(self._path / name for name in ("tmp", "new", "cur"))]
        missing = [folder for folder in folders if not folder.is_dir()]
        for folder in missing:
            folder.mkdir(mode=0o700, exist_ok=True)
            self._owner.take(folder)
        for parent in dict.fromkeys(folder.parent for folder in missing):
            _sync_folder(parent)


class _ClosedError(Exception):
    """Nobody waits for this work."""


class _State(Enum):
    """Who may touch the file of a delivery."""

    IDLE = "no thread is at work"
    BUSY = "a thread is at work"
    CLOSED = "nobody but who cleans up"


@final
class Delivery:
    """One mail on its way to the disk. Write all of it, then commit; close it in any case."""

    def __init__(self, maildir: Maildir, identifier: str) -> None:
        self._maildir = maildir
        self._identifier = identifier
        self._waiting = bytearray()
        self._file: int | None = None
        self._guard = threading.Lock()  # of the state, between us and the thread that works for us
        self._state = _State.IDLE
        self.octets = 0

    async def write(self, data: bytes) -> None:
        """Append. Raises OSError."""
        self._waiting += data
        self.octets += len(data)
        if len(self._waiting) >= _BLOCK_OCTETS:
            await self._flush()

    async def commit(self, digest: str) -> Stored:
        """Make the mail a part of the Maildir; once this returns it survives a power cut.

        Args:
            digest: of the mail, 64 lower-case hexadecimal digits.

        Raises:
            OSError: it is not stored, or that cannot be known.
        """
        assert _DIGEST.fullmatch(digest), "it becomes a part of a file name"
        await self._flush()
        assert self._file is not None, "opened by the first flush"
        await self._in_thread(partial(os.fsync, self._file))
        async with self._maildir.publishing:
            return await self._in_thread(partial(self._maildir.publish, self._identifier, digest))

    async def close(self) -> None:
        """Let go of the file, and remove what is not complete. Does nothing a second time."""
        with self._guard:
            before, self._state = self._state, _State.CLOSED
        if before is _State.IDLE and self._file is not None:
            with trio.move_on_after(CLOSE_SECONDS, shield=True):
                await trio.to_thread.run_sync(self._remove, abandon_on_cancel=True, limiter=trio.CapacityLimiter(1))

    async def _flush(self) -> None:
        block = bytes(self._waiting)
        self._waiting.clear()
        await self._in_thread(partial(self._append, block))

    async def _in_thread(self, work: Callable[[], T]) -> T:
        run = partial(trio.to_thread.run_sync, abandon_on_cancel=True, limiter=self._maildir.limiter)
        return await run(partial(self._work, work))

    # In threads

    def _work(self, work: Callable[[], T]) -> T:
        """Work, unless nobody waits for it any more; who is closed meanwhile cleans up by himself."""
        with self._guard:
            if self._state is _State.CLOSED:
                raise _ClosedError
            self._state = _State.BUSY
        try:
            return work()
        finally:
            with self._guard:
                is_closed = self._state is _State.CLOSED
                if not is_closed:
                    self._state = _State.IDLE
            if is_closed:
                self._remove()

    def _append(self, block: bytes) -> None:
        if self._file is None:
            self._file = self._maildir.open(self._identifier)
        _write_all(self._file, block)

    def _remove(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None
        with contextlib.suppress(OSError):  # the mail was refused already, and a reader of Maildirs sweeps tmp
            self._maildir.draft(self._identifier).unlink(missing_ok=True)


def _write_all(file: int, block: bytes) -> None:
    view = memoryview(block)
    while view:
        view = view[os.write(file, view) :]


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
