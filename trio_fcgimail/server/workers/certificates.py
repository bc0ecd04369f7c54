"""The files of certificates and keys: read by the parent, handed to its children, and watched."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final, final

from trio_fcgimail.config import ListenerSettings, Settings
from trio_fcgimail.server.listeners import ListenError

MAX_FILE_OCTETS: Final = 4 << 20  # ours: a bundle of authorities has some 250 kB
_DESCRIPTORS: Final = Path("/proc/self/fd")  # proc(5)

_Look = tuple[int, int, int] | None  # inode, time of change and size; None of one that is gone


def certificate_files(settings: Settings) -> tuple[Path, ...]:
    """The files that hold certificates and keys, each once."""
    named: list[Path | None] = []
    for listener in settings.listeners:
        named += (listener.certificate, listener.private_key, listener.client_ca)
        for pair in listener.certificates:
            named += (pair.certificate, pair.private_key)
    return tuple(dict.fromkeys(path for path in named if path is not None))


@final
class Watch:
    """Tells when the files of these settings have changed. Make it before they are read."""

    def __init__(self, settings: Settings) -> None:
        self.files = certificate_files(settings)
        self._known = self._seen = self._look()

    def has_changed(self) -> bool:
        """Look again: whether they are others than were known, and the same as at the last look.

        Who has just changed one of them may still be writing the other. A change is told once.
        """
        before, self._seen = self._seen, self._look()
        if self._seen == self._known or self._seen != before:
            return False
        self._known = self._seen
        return True

    def _look(self) -> tuple[_Look, ...]:
        return tuple(map(_look_at, self.files))


def _look_at(path: Path) -> _Look:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_mtime_ns, stat.st_size


def read_files(settings: Settings) -> dict[str, bytes]:
    """Read them all.

    Raises:
        ListenError: one cannot be read.
    """
    return {str(path): _read(path) for path in certificate_files(settings)}


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_OCTETS + 1)
    except OSError as exc:
        raise ListenError(f"{path}: {exc.strerror}") from exc
    if len(data) > MAX_FILE_OCTETS:
        raise ListenError(f"{path}: more than {MAX_FILE_OCTETS} octets are no certificate")
    return data


@contextmanager
def files_in_memory(settings: Settings, files: Mapping[str, bytes]) -> Iterator[Settings]:
    """Settings whose certificates and keys are files in memory, while this lasts.

    So a child that is started later serves with the same pair as the others, whatever stands on the disk meanwhile.
    Where the system has no such files, it is those on the disk.
    """
    if not (hasattr(os, "memfd_create") and _DESCRIPTORS.is_dir()):
        yield settings
        return
    with ExitStack() as stack:
        paths: dict[Path, Path] = {}
        for name, data in files.items():
            file = stack.enter_context(os.fdopen(os.memfd_create("certificate"), "wb", buffering=0))
            file.write(data)
            paths[Path(name)] = _DESCRIPTORS / str(file.fileno())
        yield replace(settings, listeners=tuple(_moved(one, paths) for one in settings.listeners))


def _moved(listener: ListenerSettings, paths: Mapping[Path, Path]) -> ListenerSettings:
    def moved(path: Path | None) -> Path | None:
        return None if path is None else paths.get(path, path)

    return replace(
        listener,
        certificate=moved(listener.certificate),
        private_key=moved(listener.private_key),
        certificates=tuple(
            replace(
                pair,
                certificate=paths.get(pair.certificate, pair.certificate),
                private_key=moved(pair.private_key),
            )
            for pair in listener.certificates
        ),
        client_ca=moved(listener.client_ca),
    )
