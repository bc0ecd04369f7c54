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
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final, final

import trio

LOOK_BACK_SECONDS: Final = 12 * 3600  # a retry of the same mail comes within hours; a copy sent next week is meant
_BLOCK_OCTETS: Final = 262_144  # what is written at once: a thread for each record would cost more than the disk
_MAX_HOST_CHARACTERS: Final = 100  # keeps a name, digest and flags included, below the 255 octets of a file name
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_NAME: Final = re.compile(r"(?P<seconds>[0-9]{1,20})\.[^.,:]+")


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
class Maildir:
    """One Maildir, whose folders are made when they are missing.

    Args:
        path: the folder that holds ``tmp``, ``new`` and ``cur``.
        host: the name of this machine, for the names of the files.
        clock: nanoseconds since the epoch.
    """

    def __init__(self, path: Path, *, host: str, clock: Callable[[], int] = time.time_ns) -> None:
        self._path = path
        self._host = re.sub(r"[^A-Za-z0-9.-]", "_", host)[:_MAX_HOST_CHARACTERS]
        self._clock = clock
        self._numbers = itertools.count(1)
        self._publishing = trio.Lock()  # else two copies at the same time would both be new

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
        return os.open(self.draft(identifier), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def draft(self, identifier: str) -> Path:
        """Where a mail is while it is not complete."""
        return self._path / "tmp" / f"{identifier}.{self._host}"

    async def publish(self, identifier: str, digest: str) -> Stored:
        """Move a complete file to ``new``, unless the same mail is there already. Raises OSError."""
        async with self._publishing:
            return await trio.to_thread.run_sync(self._publish, identifier, digest)

    def _publish(self, identifier: str, digest: str) -> Stored:
        known = self._find(digest)
        if known is None:
            self.draft(identifier).rename(self._path / "new" / f"{identifier}.{self._host},D={digest}")
        else:
            self.draft(identifier).unlink()
        _sync_folder(self._path / "new")  # also for a known one: the first try may have failed right here
        return Stored(identifier, Novelty.NEW) if known is None else Stored(known, Novelty.KNOWN)

    def _find(self, digest: str) -> str | None:
        """The identifier of the same mail, stored not long ago. A reader moves files from ``new`` to ``cur``."""
        oldest = self._clock() // 1_000_000_000 - LOOK_BACK_SECONDS
        for folder in ("new", "cur"):
            for path in (self._path / folder).glob(f"*,D={digest}*"):
                if (found := _NAME.match(path.name)) is not None and int(found["seconds"]) > oldest:
                    return found[0]
        return None

    def _make_folders(self) -> None:
        folders = [self._path, *(self._path / name for name in ("tmp", "new", "cur"))]
        missing = [folder for folder in folders if not folder.is_dir()]
        for folder in missing:
            folder.mkdir(mode=0o700, exist_ok=True)
        for parent in dict.fromkeys(folder.parent for folder in missing):
            _sync_folder(parent)


@final
class Delivery:
    """One mail on its way to the disk. Write all of it, then commit; close it in any case."""

    def __init__(self, maildir: Maildir, identifier: str) -> None:
        self._maildir = maildir
        self._identifier = identifier
        self._waiting = bytearray()
        self._file: int | None = None
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
        await trio.to_thread.run_sync(os.fsync, self._file)
        return await self._maildir.publish(self._identifier, digest)

    async def close(self) -> None:
        """Let go of the file, and remove what is not complete. Does nothing a second time."""
        if self._file is None:
            return
        file, self._file = self._file, None
        self._waiting.clear()
        with trio.CancelScope(shield=True):  # the disk cannot be hurried anyway
            await trio.to_thread.run_sync(self._remove, file)

    async def _flush(self) -> None:
        if self._file is None:
            self._file = await trio.to_thread.run_sync(self._maildir.open, self._identifier)
        block = bytes(self._waiting)
        self._waiting.clear()
        await trio.to_thread.run_sync(_write_all, self._file, block)

    def _remove(self, file: int) -> None:
        os.close(file)
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
