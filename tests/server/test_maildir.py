"""What is stored, where, and how often."""

import contextlib
import errno
import itertools
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
import trio

from trio_fcgimail.server.maildir import LOOK_BACK_SECONDS, Maildir, Novelty, Owner, Stored

DIGEST: Final = "0123456789abcdef" * 4
OTHER_DIGEST: Final = "fedcba9876543210" * 4
NOW: Final = 1_700_000_000


class Clock:
    """A wall clock that the test moves."""

    def __init__(self) -> None:
        self.seconds = NOW

    def __call__(self) -> int:
        return self.seconds * 1_000_000_000 + 123_456_789


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def maildir(tmp_path: Path, clock: Clock) -> Maildir:
    return Maildir(tmp_path / "Maildir", host="mx.example.com", clock=clock)


async def store(maildir: Maildir, *pieces: bytes, digest: str = DIGEST) -> Stored:
    delivery = maildir.delivery()
    try:
        for piece in pieces:
            await delivery.write(piece)
        return await delivery.commit(digest)
    finally:
        await delivery.close()


def files(tmp_path: Path) -> dict[str, list[bytes]]:
    root = tmp_path / "Maildir"
    return {name: [path.read_bytes() for path in sorted((root / name).iterdir())] for name in ("tmp", "new", "cur")}


@pytest.mark.trio
async def test_mail_is_stored_octet_for_octet(maildir: Maildir, tmp_path: Path) -> None:
    pieces = [b"Subject: a\n\n.dot\n..\n", b"\xff\x80\0\r\n", b"x" * 600_000, b"end without newline"]
    stored = await store(maildir, *pieces)
    assert files(tmp_path) == {"tmp": [], "new": [b"".join(pieces)], "cur": []}
    assert stored.novelty is Novelty.NEW


@pytest.mark.trio
async def test_name_follows_the_convention_and_names_the_mail(maildir: Maildir, tmp_path: Path) -> None:
    stored = await store(maildir, b"x")
    assert stored.identifier == f"{NOW}.M123456P{os.getpid()}Q1"
    (path,) = (tmp_path / "Maildir" / "new").iterdir()
    assert path.name == f"{stored.identifier}.mx.example.com,D={DIGEST}"


@pytest.mark.trio
async def test_folders_and_files_are_private(maildir: Maildir, tmp_path: Path) -> None:
    await store(maildir, b"x")
    root = tmp_path / "Maildir"
    (mail,) = (root / "new").iterdir()
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (root, root / "tmp", root / "new", root / "cur", mail)]
    assert modes == [0o700] * 4 + [0o600]


@pytest.mark.trio
async def test_folder_that_is_there_keeps_its_mode_and_content(maildir: Maildir, tmp_path: Path) -> None:
    root = tmp_path / "Maildir"
    root.mkdir(mode=0o750)
    (root / "cur").mkdir()
    (root / "cur" / "1.old:2,S").write_bytes(b"old")
    await store(maildir, b"x")
    assert files(tmp_path) == {"tmp": [], "new": [b"x"], "cur": [b"old"]}
    assert stat.S_IMODE(root.stat().st_mode) == 0o750


@pytest.mark.trio
async def test_empty_mail_is_a_mail(maildir: Maildir, tmp_path: Path) -> None:
    await store(maildir)
    assert files(tmp_path)["new"] == [b""]


@pytest.mark.trio
async def test_retry_is_stored_once(maildir: Maildir, tmp_path: Path) -> None:
    first = await store(maildir, b"x")
    second = await store(maildir, b"x with another trace header")
    assert second == Stored(first.identifier, Novelty.KNOWN)
    assert files(tmp_path) == {"tmp": [], "new": [b"x"], "cur": []}


@pytest.mark.trio
async def test_retry_is_recognised_after_it_was_read(maildir: Maildir, tmp_path: Path) -> None:
    first = await store(maildir, b"x")
    (path,) = (tmp_path / "Maildir" / "new").iterdir()
    path.rename(tmp_path / "Maildir" / "cur" / f"{path.name}:2,S")
    assert await store(maildir, b"x") == Stored(first.identifier, Novelty.KNOWN)


@pytest.mark.trio
async def test_retry_is_recognised_by_another_process(maildir: Maildir, tmp_path: Path, clock: Clock) -> None:
    first = await store(maildir, b"x")
    restarted = Maildir(tmp_path / "Maildir", host="other.example.com", clock=clock)
    assert await store(restarted, b"x") == Stored(first.identifier, Novelty.KNOWN)


@pytest.mark.trio
async def test_same_mail_much_later_is_a_new_one(maildir: Maildir, tmp_path: Path, clock: Clock) -> None:
    await store(maildir, b"x")
    clock.seconds += LOOK_BACK_SECONDS - 1
    assert (await store(maildir, b"x")).novelty is Novelty.KNOWN
    clock.seconds += 2
    assert (await store(maildir, b"x")).novelty is Novelty.NEW
    assert files(tmp_path)["new"] == [b"x", b"x"]


@pytest.mark.trio
async def test_copies_at_the_same_time_are_stored_once(maildir: Maildir, tmp_path: Path) -> None:
    results: list[Stored] = []

    async def deliver() -> None:
        results.append(await store(maildir, b"x"))

    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(deliver)
    assert sorted(result.novelty.value for result in results) == ["already stored"] * 7 + ["stored"]
    assert files(tmp_path) == {"tmp": [], "new": [b"x"], "cur": []}


@pytest.mark.trio
async def test_copies_cannot_both_look_before_one_is_stored(
    maildir: Maildir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever looks waits a moment for the other to look as well, which must not come to pass."""
    together = threading.Barrier(2, timeout=0.1)
    scandir = os.scandir

    def waiting(path: Path) -> Iterator[os.DirEntry[str]]:
        with contextlib.suppress(threading.BrokenBarrierError):
            together.wait()
        return scandir(path)

    monkeypatch.setattr(os, "scandir", waiting)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store, maildir, b"x")
        nursery.start_soon(store, maildir, b"x")
    assert together.broken
    assert files(tmp_path)["new"] == [b"x"]


@pytest.mark.trio
async def test_new_folders_are_synced_into_their_parents(
    maildir: Maildir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(Path(f"/proc/self/fd/{number}").resolve()))
    await maildir.prepare()
    assert synced == [tmp_path, tmp_path / "Maildir"]
    await maildir.prepare()
    assert len(synced) == 2


@pytest.mark.trio
async def test_different_mails_of_one_moment_have_different_names(maildir: Maildir, tmp_path: Path) -> None:
    await store(maildir, b"x")
    await store(maildir, b"y", digest=OTHER_DIGEST)
    assert files(tmp_path)["new"] == [b"x", b"y"]


@pytest.mark.trio
async def test_mail_that_is_not_completed_leaves_nothing(maildir: Maildir, tmp_path: Path) -> None:
    delivery = maildir.delivery()
    await delivery.write(b"x" * 600_000)
    assert len(files(tmp_path)["tmp"]) == 1
    await delivery.close()
    await delivery.close()
    assert files(tmp_path) == {"tmp": [], "new": [], "cur": []}


@pytest.mark.trio
async def test_cancelled_delivery_leaves_nothing(maildir: Maildir, tmp_path: Path) -> None:
    with trio.CancelScope() as scope:
        delivery = maildir.delivery()
        try:
            await delivery.write(b"x" * 600_000)
            scope.cancel()
            await delivery.write(b"x" * 600_000)
        finally:
            await delivery.close()
    assert scope.cancelled_caught
    assert files(tmp_path) == {"tmp": [], "new": [], "cur": []}


@pytest.mark.trio
async def test_path_that_is_a_file_is_an_oserror(maildir: Maildir, tmp_path: Path) -> None:
    (tmp_path / "Maildir").write_bytes(b"")
    with pytest.raises(OSError, match="Maildir"):
        await store(maildir, b"x")
    with pytest.raises(NotADirectoryError):
        await maildir.prepare()


@pytest.mark.trio
@pytest.mark.parametrize("name", ["", "tmp", "new"])
async def test_a_link_in_the_place_of_a_folder_leads_nowhere(name: str, tmp_path: Path) -> None:
    """Its owner could have us, as root, write and give away what is not his."""
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    if name:
        (tmp_path / "Maildir").mkdir()
    (tmp_path / "Maildir" / name).symlink_to(theirs)
    maildir = Maildir(tmp_path / "Maildir", host="mx.example.com", owner=Owner(os.getuid(), os.getgid()))
    with pytest.raises(NotADirectoryError) as caught:
        await store(maildir, b"x")
    assert caught.value.filename == str(tmp_path / "Maildir" / name)
    assert list(theirs.iterdir()) == []


@pytest.mark.trio
async def test_a_folder_that_was_swapped_for_a_link_is_not_given_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the making of a folder and its giving away its owner, who may rename it, has a moment."""
    secret = tmp_path / "secret"
    secret.mkdir()
    mkdir, fchown = os.mkdir, os.fchown
    given: list[Path] = []

    def swapping(path: Path, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        mkdir(path, mode, dir_fd=dir_fd)
        if Path(path).name == "tmp":
            (tmp_path / "Maildir" / "tmp").rmdir()
            (tmp_path / "Maildir" / "tmp").symlink_to(secret)

    def recording(descriptor: int, uid: int, gid: int) -> None:
        given.append(Path(f"/proc/self/fd/{descriptor}").resolve())
        fchown(descriptor, uid, gid)

    monkeypatch.setattr(os, "mkdir", swapping)
    monkeypatch.setattr(os, "fchown", recording)
    maildir = Maildir(tmp_path / "Maildir", host="mx.example.com", owner=Owner(os.getuid(), os.getgid()))
    with pytest.raises(NotADirectoryError):
        await store(maildir, b"x")
    assert given == [tmp_path / "Maildir"]


@pytest.mark.trio
async def test_everything_is_synced_before_it_is_said_to_be_stored(
    maildir: Maildir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file while it is in tmp, the folder once the name is in it."""
    await maildir.prepare()
    steps: list[tuple[str, list[int]]] = []
    fsync = os.fsync

    def recording(descriptor: int) -> None:
        name = Path(f"/proc/self/fd/{descriptor}").resolve().relative_to(tmp_path / "Maildir").parts[0]
        steps.append((name, [len(content) for content in itertools.chain(*files(tmp_path).values())]))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", recording)
    await store(maildir, b"1234")
    assert steps == [("tmp", [4]), ("new", [4])]


@pytest.mark.trio
async def test_folder_that_cannot_be_synced_is_no_success_and_the_retry_is_not_doubled(
    maildir: Maildir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await maildir.prepare()
    fsync = os.fsync

    def failing(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EIO, "Input/output error")
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing)
        with pytest.raises(OSError, match="Input/output"):
            await store(maildir, b"x")
    assert (await store(maildir, b"x")).novelty is Novelty.KNOWN
    assert files(tmp_path) == {"tmp": [], "new": [b"x"], "cur": []}


@pytest.mark.trio
async def test_host_is_escaped_as_the_rules_of_maildir_say(tmp_path: Path) -> None:
    await store(Maildir(tmp_path / "Maildir", host="a/b:c,d"), b"x")
    (path,) = (tmp_path / "Maildir" / "new").iterdir()
    assert path.name.endswith(rf".a\057b\072c_d,D={DIGEST}")


@pytest.mark.trio
async def test_look_behind_so_many_names_ends(
    maildir: Maildir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is said of it: a retry may be stored twice, a delivery never takes for ever."""
    monkeypatch.setattr("trio_fcgimail.server.maildir.MAX_LOOKED_AT", 0)
    assert (await store(maildir, b"x")).novelty is Novelty.NEW
    assert (await store(maildir, b"x")).novelty is Novelty.NEW


@pytest.mark.trio
async def test_folder_above_must_be_there(tmp_path: Path) -> None:
    """A home that is not mounted is no place for mail."""
    with pytest.raises(FileNotFoundError):
        await store(Maildir(tmp_path / "home" / "Maildir", host="a"), b"x")
    assert not await trio.Path(tmp_path / "home").exists()


@pytest.mark.trio
async def test_host_cannot_leave_the_folder(tmp_path: Path) -> None:
    await store(Maildir(tmp_path / "Maildir", host="../../x:2," + "y" * 300), b"x")
    (path,) = (tmp_path / "Maildir" / "new").iterdir()
    assert path.name.endswith(f",D={DIGEST}")
    assert ":" not in path.name
