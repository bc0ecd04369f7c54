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
from collections.abc import Callable, Iterator, Mapping
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
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
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

    @property
    def is_other(self) -> bool:
        """Whether anything is to be given away."""
        return self.uid is not None or self.gid is not None

    def take(self, descriptor: int) -> None:
        """Give away a file or a folder that is open: its name may stand for something else by now."""
        if self.is_other:
            with contextlib.suppress(PermissionError):
                uid, gid = (_KEPT_ID if one is None else one for one in (self.uid, self.gid))
                os.fchown(descriptor, uid, gid)


@final
class Maildir:
    """One Maildir, whose folders are made when they are missing.

    Whoever waits here may be cancelled at any time: what a thread is doing then ends without him, and leaves nothing
    in ``tmp``. A mail that was just being moved may be stored though nobody was told; the retry finds it.

    Its owner may change the folders while we, perhaps as root, work in them. So ``tmp``, ``new`` and ``cur`` must be no
    symbolic links, nor may the Maildir itself when its files are given away; all is done relative to what was opened.

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
        await trio.to_thread.run_sync(self._prepare)

    def delivery(self) -> Delivery:
        """Begin to store a mail."""
        seconds, nanoseconds = divmod(self._clock(), 1_000_000_000)
        identifier = f"{seconds}.M{nanoseconds // 1000}P{os.getpid()}Q{next(self._numbers)}"
        return Delivery(self, identifier)

    # For Delivery, in threads

    def open(self, identifier: str) -> int:
        """Open a new file in ``tmp``. Raises OSError."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with self._folders() as folders:
            descriptor = os.open(self._name(identifier), flags, 0o600, dir_fd=folders["tmp"])
        self._owner.take(descriptor)
        return descriptor

    def remove(self, identifier: str) -> None:
        """Remove a file that is not complete, unless it is gone already. Raises OSError."""
        with self._folders() as folders, contextlib.suppress(FileNotFoundError):
            os.unlink(self._name(identifier), dir_fd=folders["tmp"])

    def publish(self, identifier: str, digest: str) -> Stored:
        """Move a complete file to ``new``, unless the same mail is there already. Raises OSError."""
        draft = self._name(identifier)
        with self._folders() as folders:
            known = self._find(folders, digest)
            if known is None:
                os.rename(draft, f"{draft},D={digest}", src_dir_fd=folders["tmp"], dst_dir_fd=folders["new"])
            else:
                os.unlink(draft, dir_fd=folders["tmp"])
            os.fsync(folders["new"])  # also for a known one: the first try may have failed right here
        return Stored(identifier, Novelty.NEW) if known is None else Stored(known, Novelty.KNOWN)

    def _name(self, identifier: str) -> str:
        return f"{identifier}.{self._host}"

    def _find(self, folders: Mapping[str, int], digest: str) -> str | None:
        """The identifier of the same mail, stored not long ago. A reader moves files from ``new`` to ``cur``."""
        oldest = self._clock() // 1_000_000_000 - self._look_back_seconds
        mark = f",D={digest}"
        for folder in ("new", "cur"):
            with os.scandir(folders[folder]) as entries:
                for entry in itertools.islice(entries, MAX_LOOKED_AT):
                    if mark not in entry.name or (found := _NAME.match(entry.name)) is None:
                        continue
                    if int(found["seconds"]) > oldest:
                        return found[0]
        return None

    def _prepare(self) -> None:
        with self._folders():
            pass

    @contextlib.contextmanager
    def _folders(self) -> Iterator[Mapping[str, int]]:
        """Have the folders open, within; those that are missing are made. Raises OSError."""
        with contextlib.ExitStack() as opened:
            base, is_new = self._enter(self._path, None, os.O_NOFOLLOW if self._owner.is_other else 0)
            opened.callback(os.close, base)
            folders: dict[str, int] = {}
            has_new = False
            for name in ("tmp", "new", "cur"):
                folders[name], was_made = self._enter(Path(name), base, os.O_NOFOLLOW)
                opened.callback(os.close, folders[name])
                has_new |= was_made
            if is_new:
                _sync_folder(self._path.parent)
            if has_new:
                os.fsync(base)
            yield folders

    def _enter(self, path: Path, base: int | None, flags: int) -> tuple[int, bool]:
        """Open a folder; whether it was made for that, and given to its owner."""
        try:
            try:
                return os.open(path, _FOLDER | flags, dir_fd=base), False
            except FileNotFoundError:
                with contextlib.suppress(FileExistsError):  # made meanwhile
                    os.mkdir(path, mode=0o700, dir_fd=base)
            descriptor = os.open(path, _FOLDER | flags, dir_fd=base)
        except OSError as exc:
            exc.filename = str(self._path if base is None else self._path / path)  # whole, for people
            raise
        self._owner.take(descriptor)
        return descriptor, True


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, _FOLDER)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
            self._maildir.remove(self._identifier)


def _write_all(file: int, block: bytes) -> None:
    view = memoryview(block)
    while view:
        view = view[os.write(file, view) :]
