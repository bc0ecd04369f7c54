"""Where a mail waits for its end: in memory, and when it grows, in a file without a name.

A file without a name vanishes with the process that holds it, whatever ended it; nothing is ever left to clean up.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import AsyncGenerator
from contextlib import suppress
from pathlib import Path
from typing import IO, Final, final

import trio

_BLOCK_OCTETS: Final = 262_144  # what is read from the disk at once
_FULL_OCTETS: Final = 196_608  # more than that is written at once: with the largest read on top, at most 320 KiB
_FREE_SHARE: Final = 0.95  # of the free space, when the settings name no total


class SpoolFullError(Exception):
    """There is no room for more of this mail, now."""


class SpoolReadError(Exception):
    """What was written cannot be read back."""


@final
class SpoolRoom:
    """What all spools together may put on the disk.

    Args:
        directory: of the files; None for the system's.
        memory_octets: of a mail that stay in memory.
        total_octets: on the disk, over all mails; None for the free space less 5 %.
    """

    def __init__(self, *, directory: Path | None, memory_octets: int, total_octets: int | None) -> None:
        self.directory = Path(tempfile.gettempdir()) if directory is None else directory
        self.memory_octets = memory_octets
        self._total_octets = total_octets
        self.used_octets = 0

    def claim(self, octets: int) -> None:
        """Take room for so many octets more. Raises SpoolFullError."""
        if self.used_octets + octets > self._limit():
            raise SpoolFullError(f"no room for {octets} octets more beside {self.used_octets}")
        self.used_octets += octets

    def free(self, octets: int) -> None:
        """Give room back."""
        self.used_octets -= octets

    def _limit(self) -> float:
        if self._total_octets is not None:
            return self._total_octets
        try:
            free = shutil.disk_usage(self.directory).free
        except OSError as exc:
            raise SpoolFullError(f"{self.directory}: {exc.strerror}") from exc
        return (free + self.used_octets) * _FREE_SHARE


@final
class Spool:
    """One mail. Write all of it, then read it as often as needed, then close."""

    def __init__(self, room: SpoolRoom) -> None:
        self._room = room
        self._memory = bytearray()  # all of the mail, or what is not yet on the disk
        self._file: IO[bytes] | None = None
        self._on_disk = 0

    async def write(self, data: bytes) -> None:
        """Append.

        Raises:
            SpoolFullError: the disk or our share of it is full; the mail cannot be completed.
        """
        if self.append(data):
            await self.flush()

    def append(self, data: bytes) -> bool:
        """Append, without waiting; whether ``flush`` has to follow."""
        self._memory += data
        return len(self._memory) > (self._room.memory_octets if self._file is None else _FULL_OCTETS)

    async def flush(self) -> None:
        """Put what is in memory on the disk. Raises SpoolFullError, as ``write`` does."""
        block = bytes(self._memory)
        self._room.claim(len(block))
        self._on_disk += len(block)
        self._memory.clear()
        try:
            if self._file is None:
                self._file = await trio.to_thread.run_sync(self._open)
            await trio.to_thread.run_sync(_write_all, self._file, block)
        except OSError as exc:
            raise SpoolFullError(f"{self._room.directory}: {exc.strerror}") from exc

    def _open(self) -> IO[bytes]:
        return tempfile.TemporaryFile(buffering=0, dir=self._room.directory)

    @property
    def size(self) -> int:
        """Octets of it."""
        return self._on_disk + len(self._memory)

    @property
    def is_in_memory(self) -> bool:
        """Whether nothing of it is on the disk."""
        return self._file is None

    def in_memory(self) -> bytes:
        """What of it is not on the disk: all of it, until the first ``flush``."""
        return bytes(self._memory)

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """All of it, in pieces of bounded size. Raises SpoolReadError."""
        if self._file is not None:
            offset = 0
            while offset < self._on_disk:
                octets = min(_BLOCK_OCTETS, self._on_disk - offset)
                try:
                    piece = await trio.to_thread.run_sync(os.pread, self._file.fileno(), octets, offset)
                except OSError as exc:
                    raise SpoolReadError(f"{self._room.directory}: {exc.strerror}") from exc
                if not piece:
                    raise SpoolReadError("the spool file is shorter than what was written to it")
                offset += len(piece)
                yield piece
        for start in range(0, len(self._memory), _BLOCK_OCTETS):
            yield bytes(self._memory[start : start + _BLOCK_OCTETS])

    def close(self) -> None:
        """Forget the mail and give its room back."""
        self._memory.clear()
        self._room.free(self._on_disk)
        self._on_disk = 0
        if self._file is not None:
            with suppress(OSError):  # a disk that fails now has nothing left that anybody needs
                self._file.close()
            self._file = None


def _write_all(file: IO[bytes], block: bytes) -> None:
    view = memoryview(block)
    while view:
        view = view[file.write(view) :]
