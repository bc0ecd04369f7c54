"""Where a mail waits: memory, a file without a name, no room left, and nothing that stays behind."""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from trio_fcgimail.server.spool import Spool, SpoolFullError, SpoolReadError, SpoolRoom

BLOCK: Final = 262_144  # of what is read at once
FULL: Final = 196_608  # more than that is written at once
PLENTY: Final = 1 << 40
FILE_LIMIT: Final = 700_001  # no multiple of a block, so that a write is cut in two


def room(directory: Path | None, *, memory: int = 1000, total: int | None = PLENTY) -> SpoolRoom:
    return SpoolRoom(directory=directory, memory_octets=memory, total_octets=total)


def content(octets: int) -> bytes:
    """Octets whose order shows."""
    return (b"".join(number.to_bytes(4) for number in range(octets // 4 + 1)))[:octets]


def files_in(directory: Path) -> list[str]:
    """The files in a folder that this process holds open, with a name or without."""
    inside = f"{directory}/"
    return [path for link in Path("/proc/self/fd").iterdir() if (path := _target(link)).startswith(inside)]


def names_in(directory: Path) -> list[str]:
    """What a folder shows to others."""
    return [path.name for path in directory.iterdir()]


def descriptor_of(directory: Path) -> int:
    (found,) = (int(link.name) for link in Path("/proc/self/fd").iterdir() if _target(link).startswith(f"{directory}/"))
    return found


def _target(link: Path) -> str:
    try:
        return str(link.readlink())
    except FileNotFoundError:  # the descriptor by which the folder of descriptors is read
        return ""


async def read(spool: Spool) -> bytes:
    pieces = [piece async for piece in spool.pieces()]
    assert all(0 < len(piece) <= BLOCK for piece in pieces)
    return b"".join(pieces)


async def write_each(spool: Spool, pieces: list[bytes]) -> None:
    for piece in pieces:
        await spool.write(piece)


@pytest.mark.parametrize(
    ("memory", "octets", "on_disk"),
    [
        pytest.param(1000, 0, 0, id="nothing"),
        pytest.param(1000, 999, 0, id="below"),
        pytest.param(1000, 1000, 0, id="just-fits"),
        pytest.param(1000, 1001, 1001, id="an-octet-more"),
        pytest.param(0, 1, 1, id="no-memory-at-all"),
        pytest.param(0, 0, 0, id="no-memory-and-nothing"),
        pytest.param(BLOCK, BLOCK, 0, id="a-block-fits"),
        pytest.param(BLOCK, BLOCK + 1, BLOCK + 1, id="a-block-and-an-octet"),
        pytest.param(1000, 3 * BLOCK, 3 * BLOCK, id="three-blocks"),
        pytest.param(3 * BLOCK, 3 * BLOCK, 0, id="three-blocks-in-memory"),
    ],
)
@pytest.mark.trio
async def test_what_was_written_is_read_as_often_as_needed(
    tmp_path: Path, memory: int, octets: int, on_disk: int
) -> None:
    whole = room(tmp_path, memory=memory)
    spool = Spool(whole)
    await spool.write(content(octets))
    assert whole.used_octets == on_disk
    assert len(files_in(tmp_path)) == bool(on_disk)
    assert names_in(tmp_path) == []
    assert await read(spool) == await read(spool) == content(octets)
    spool.close()
    assert whole.used_octets == 0
    assert files_in(tmp_path) == []
    spool.close()  # once more does no harm
    assert whole.used_octets == 0


@pytest.mark.trio
async def test_what_is_not_yet_on_the_disk_is_read_too(tmp_path: Path) -> None:
    whole = room(tmp_path)
    spool = Spool(whole)
    await spool.write(content(2000))
    await spool.write(b"x" * FULL)  # waits until there is more
    assert whole.used_octets == 2000
    await spool.write(b"y")
    assert whole.used_octets == 2000 + FULL + 1
    await spool.write(b"z")
    assert await read(spool) == content(2000) + b"x" * FULL + b"yz"
    spool.close()


@given(st.integers(0, 30), st.lists(st.binary(max_size=20), max_size=8))
def test_it_does_not_matter_how_it_is_written(memory: int, pieces: list[bytes]) -> None:
    async def write_and_read() -> None:
        whole = room(None, memory=memory)
        spool = Spool(whole)
        for piece in pieces:
            await spool.write(piece)
        assert await read(spool) == b"".join(pieces)
        assert (whole.used_octets > 0) == (len(b"".join(pieces)) > memory)
        spool.close()
        assert whole.used_octets == 0

    trio.run(write_and_read)


@pytest.mark.trio
async def test_the_room_is_shared(tmp_path: Path) -> None:
    whole = room(tmp_path, total=5000)
    one, other = Spool(whole), Spool(whole)
    await one.write(content(3000))
    await other.write(content(1000))  # memory counts for nothing
    with pytest.raises(SpoolFullError, match="no room for 2001 octets more beside 3000"):
        await other.write(content(1001))
    other.close()
    assert whole.used_octets == 3000
    third = Spool(whole)
    await third.write(content(2000))  # to the last octet
    assert whole.used_octets == 5000
    one.close()
    third.close()
    assert whole.used_octets == 0
    assert files_in(tmp_path) == []


@pytest.mark.trio
async def test_a_mail_that_grows_beyond_the_room_gives_all_of_it_back(tmp_path: Path) -> None:
    whole = room(tmp_path, total=BLOCK)
    spool = Spool(whole)
    await spool.write(content(2000))
    with pytest.raises(SpoolFullError):
        await spool.write(content(BLOCK + 1))
    assert whole.used_octets == 2000
    spool.close()
    assert whole.used_octets == 0


@pytest.mark.trio
async def test_without_a_total_it_is_the_free_space_less_5_percent(tmp_path: Path) -> None:
    whole = room(tmp_path, total=None)
    disk = os.statvfs(tmp_path)
    free = disk.f_bavail * disk.f_frsize
    with pytest.raises(SpoolFullError):
        whole.claim(free)
    assert whole.used_octets == 0
    whole.claim(free // 2)
    with pytest.raises(SpoolFullError):
        whole.claim(free)
    whole.free(free // 2)
    assert whole.used_octets == 0


@pytest.mark.parametrize("total", [pytest.param(None, id="free-space"), pytest.param(PLENTY, id="total")])
@pytest.mark.trio
async def test_without_its_folder_there_is_no_room(tmp_path: Path, total: int | None) -> None:
    whole = room(tmp_path / "none", total=total)
    spool = Spool(whole)
    await spool.write(content(1000))
    with pytest.raises(SpoolFullError, match="none: No such file or directory"):
        await spool.write(b"x")
    spool.close()
    assert whole.used_octets == 0


def test_the_default_folder_is_that_of_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert room(None).directory == tmp_path


@pytest.fixture
def file_limit() -> Iterator[None]:
    """No file of this process may grow beyond FILE_LIMIT; the kernel then writes what fits, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_LIMIT, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 512 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("a small disk needs the right to mount; the limit of a file stands in for it")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


async def _fill(folder: Path, reason: str) -> None:
    whole = room(folder)
    spool = Spool(whole)
    with pytest.raises(SpoolFullError, match=reason):
        await write_each(spool, [content(BLOCK)] * 3)  # the last one fits in part
    spool.close()
    assert whole.used_octets == 0
    assert files_in(folder) == []
    spool = Spool(whole)  # and the next one that fits is taken
    await spool.write(content(BLOCK))
    assert await read(spool) == content(BLOCK)
    spool.close()


@pytest.mark.usefixtures("file_limit")
@pytest.mark.trio
async def test_a_file_that_cannot_grow_is_a_full_spool(tmp_path: Path) -> None:
    await _fill(tmp_path, "File too large")


@pytest.mark.trio
async def test_a_full_disk_is_a_full_spool(small_disk: Path) -> None:
    await _fill(small_disk, "No space left on device")


@pytest.mark.trio
async def test_the_free_space_of_a_small_disk_is_kept_in_part(small_disk: Path) -> None:
    whole = room(small_disk, total=None)
    spool = Spool(whole)
    with pytest.raises(SpoolFullError, match="no room"):
        await write_each(spool, [content(1024)] * 600)
    spool.close()
    assert whole.used_octets == 0


@pytest.mark.trio
async def test_a_file_that_lost_its_end_is_an_error(tmp_path: Path) -> None:
    spool = Spool(room(tmp_path))
    await spool.write(content(2 * BLOCK))
    os.ftruncate(descriptor_of(tmp_path), BLOCK)
    with pytest.raises(SpoolReadError, match="shorter"):
        await read(spool)
    spool.close()


@pytest.mark.trio
async def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    whole = room(tmp_path)
    spool = Spool(whole)
    await spool.write(content(2000))
    folder = os.open(tmp_path.parent, os.O_RDONLY)
    os.dup2(folder, descriptor_of(tmp_path))  # a folder is in its place
    os.close(folder)
    with pytest.raises(SpoolReadError, match="Is a directory"):
        await read(spool)
    spool.close()
    assert whole.used_octets == 0


@pytest.mark.trio
async def test_a_write_cancelled_before_it_began_leaves_nothing(tmp_path: Path) -> None:
    whole = room(tmp_path)
    spool = Spool(whole)
    with trio.CancelScope() as scope:
        scope.cancel()
        await spool.write(content(2000))
    assert scope.cancelled_caught
    spool.close()
    assert whole.used_octets == 0
    assert files_in(tmp_path) == []


@pytest.mark.trio
async def test_a_write_cancelled_under_way_leaves_nothing(tmp_path: Path) -> None:
    whole = room(tmp_path)
    spool = Spool(whole)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(spool.write, content(20 * BLOCK))
        while not files_in(tmp_path):  # nobody tells when a thread has opened one
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    spool.close()
    assert whole.used_octets == 0
    assert files_in(tmp_path) == []
    assert names_in(tmp_path) == []
