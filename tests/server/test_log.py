"""The log: nobody waits for it, no line starts another, and what matters of a long value stays."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest
import structlog

from tests.support import Journal
from trio_fcgimail.config import LogFormat, LogLevel, LogSettings
from trio_fcgimail.mail import MAX_STDERR_OCTETS
from trio_fcgimail.server import LogFile, make_changing_log
from trio_fcgimail.server.log import MAX_TRACEBACK_CHARACTERS, MAX_VALUE_CHARACTERS
from trio_fcgimail.server.logfile import LAST_SECONDS, MAX_WAITING_LINES
from trio_fcgimail.server.logline import Stamp, plain_line

PIPE_OCTETS: Final = 65_536  # of Linux, pipe(7)


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[Path]:
    """A named pipe whose reader does not read; reading from it does not wait."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    yield path
    os.close(reader)


def in_time(act: Callable[[], object], seconds: float) -> bool:
    """Whether ``act`` comes to its end."""
    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    thread.join(seconds)
    return not thread.is_alive()


def read_all(path: Path, whole: list[bytes]) -> threading.Thread:
    """Start to read a pipe until its writer closes it."""
    thread = threading.Thread(target=lambda: whole.append(path.read_bytes()), daemon=True)
    thread.start()
    return thread


# Where lines go


def test_a_reader_that_does_not_read_holds_up_nobody_and_is_told_what_it_missed(pipe: Path) -> None:
    journal = Journal(pipe)
    sent = 2 * MAX_WAITING_LINES

    def log_much() -> None:
        for number in range(sent):
            journal.log.info("mail", number=number, subject="x" * 500)

    assert in_time(log_much, 20)
    assert not journal.file.flush()
    whole: list[bytes] = []
    reader = read_all(pipe, whole)
    assert journal.file.flush()
    journal.file.close()
    reader.join(5)
    entries = [json.loads(line) for line in whole[0].splitlines()]
    losses = [entry for entry in entries if entry["event"] == "log lines lost"]
    numbers = [entry["number"] for entry in entries if entry["event"] == "mail"]
    assert numbers[: MAX_WAITING_LINES // 2] == list(range(MAX_WAITING_LINES // 2))
    assert numbers == sorted(set(numbers))
    lost = sum(entry["lines"] for entry in losses)
    assert lost == sent - len(numbers)
    assert lost > MAX_WAITING_LINES // 2


def test_the_end_does_not_wait_for_a_reader_that_does_not_read(pipe: Path) -> None:
    file = LogFile(pipe)
    file.line("x" * 2 * PIPE_OCTETS)
    assert in_time(file.close, 2 * LAST_SECONDS)
    whole: list[bytes] = []
    read_all(pipe, whole).join(5)  # which lets the thread come to its end, too
    assert whole == [b"x" * 2 * PIPE_OCTETS + b"\n"]


@pytest.mark.parametrize("reads", [pytest.param(True, id="reads"), pytest.param(False, id="does-not-read")])
def test_a_process_ends_with_its_lines_written_if_somebody_reads_them(*, reads: bool) -> None:
    program = """
from trio_fcgimail.config import LogStream
from trio_fcgimail.server import LogFile, make_changing_log
file = LogFile(LogStream.STDERR)
file.line("first")
for _ in range(300):
    file.line("x" * 1000)
file.line("last")
"""
    read, write = os.pipe()
    process = subprocess.Popen([sys.executable, "-c", program], stderr=write)
    os.close(write)
    with os.fdopen(read, "rb") as stderr:
        if reads:
            lines = stderr.read().splitlines()
            assert (lines[0], len(lines), lines[-1]) == (b"first", 302, b"last")
        assert process.wait(10) == 0


def test_a_line_appears_without_being_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "log"
    file = LogFile(path)
    file.line("hello")
    until = time.monotonic() + 5
    while not path.read_bytes() and time.monotonic() < until:
        time.sleep(0.001)
    assert path.read_bytes() == b"hello\n"
    file.close()


def test_a_file_is_opened_anew_between_two_lines(tmp_path: Path) -> None:
    path, moved = tmp_path / "log", tmp_path / "log.1"
    file = LogFile(path)
    for number in range(1000):
        file.line(f"old {number}")
    path.rename(moved)
    file.reopen()
    file.line("new")
    file.close()
    assert len(moved.read_text().splitlines()) == 1000
    assert path.read_text() == "new\n"


def test_a_file_that_cannot_be_opened_anew_stays_in_use(tmp_path: Path) -> None:
    folder, moved = tmp_path / "logs", tmp_path / "moved"
    folder.mkdir()
    file = LogFile(folder / "log")
    folder.rename(moved)
    with pytest.raises(FileNotFoundError):
        file.reopen()
    file.line("still here")
    file.close()
    assert (moved / "log").read_text() == "still here\n"


def test_a_full_disk_loses_lines_and_later_says_how_many(tmp_path: Path) -> None:
    path = tmp_path / "log"
    journal = Journal(Path("/dev/full"))
    for _ in range(3):
        journal.log.info("mail")
    assert journal.file.flush()
    journal.file.change_to(path)
    journal.log.info("mail")
    journal.file.close()
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(entry["event"], entry.get("lines")) for entry in entries] == [("mail", None), ("log lines lost", 3)]


def test_half_a_line_spoils_no_other(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    first = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    file = LogFile(path)
    file.line("x" * 4 * PIPE_OCTETS)
    select.select([first], [], [], 5)
    os.close(first)
    assert file.flush()
    whole: list[bytes] = []
    reader = read_all(path, whole)
    os.close(os.open(path, os.O_WRONLY))  # waits for the reader
    file.line("whole")
    file.close()
    reader.join(5)
    assert whole[0].endswith(b"x\nwhole\n")


@pytest.mark.parametrize("octets", [pytest.param(10, id="short"), pytest.param(9000, id="long")])
def test_lines_are_written_many_at_a_time_and_in_order(octets: int, tmp_path: Path) -> None:
    path = tmp_path / "log"
    file = LogFile(path)
    lines = [f"{number} ".ljust(octets, "x") for number in range(500)]
    for line in lines:
        file.line(line)
    file.close()
    assert path.read_text().splitlines() == lines


# What lines hold


@pytest.mark.parametrize(
    "event",
    [
        pytest.param({"event": "mail"}, id="no-values"),
        pytest.param({"event": "x" * 40, "peer": "192.0.2.1"}, id="long-event"),
        pytest.param({"event": "mail", "a": "b c", "d": 'e"f', "g": "h=i", "j": "k'l", "m": ""}, id="quoted"),
        pytest.param({"event": "mail", "number": 7, "none": None, "some": 1.5, "yes": True}, id="no-texts"),
        pytest.param({"event": "mail", "subject": "Gr\u00fc\u00dfe"}, id="umlauts"),
    ],
)
@pytest.mark.parametrize("level", ["debug", "info", "warning", "error", "critical"])
def test_a_plain_line_is_that_of_structlog_without_colours(level: str, event: dict[str, object]) -> None:
    stamped = Stamp()(None, level, dict(event))
    renderer = structlog.dev.ConsoleRenderer(colors=False, pad_event_to=24, sort_keys=False)
    assert plain_line(None, level, dict(stamped)) == renderer(None, level, dict(stamped))


def test_lines_are_stamped_as_by_structlog() -> None:
    theirs = structlog.processors.TimeStamper(fmt="iso", utc=True)
    before, ours, after = ((theirs, Stamp(), theirs)[turn](None, "info", {}) for turn in range(3))
    assert ours["level"] == "info"
    assert str(before["timestamp"]) <= str(ours["timestamp"]) <= str(after["timestamp"])


def deep(depth: int) -> None:
    if depth:
        deep(depth - 1)
    else:
        raise RuntimeError("the reason\nof it")


@pytest.mark.parametrize("log_format", LogFormat)
def test_an_exception_is_told_on_one_line_with_its_reason(log_format: LogFormat, tmp_path: Path) -> None:
    journal = Journal(tmp_path / "exceptions", log_format)
    try:
        try:
            deep(3)
        except RuntimeError as exc:
            raise ExceptionGroup("outer", [ExceptionGroup("x" * 3000, [exc]), KeyError("other")]) from None
    except ExceptionGroup:
        journal.log.exception("session failed", state="READY")
    (line,) = journal.lines()
    journal.file.close()
    assert line.isprintable()
    assert line.startswith("20") or log_format is LogFormat.JSON  # the time
    assert "RuntimeError: the reason of it; KeyError: 'other'" in line
    assert "in deep" in line
    assert "session failed" in line


def test_of_a_long_traceback_both_ends_are_kept(journal: Journal) -> None:
    try:
        raise ExceptionGroup("many", [ValueError("v" * 9000), OSError("o" * 9000)])
    except ExceptionGroup:
        journal.log.exception("observer failed")
    (entry,) = journal.entries("observer failed")
    told = str(entry["traceback"])
    assert len(told) == pytest.approx(MAX_TRACEBACK_CHARACTERS, abs=1)
    assert told.startswith("+ Exception Group Traceback")
    assert told.endswith("ooo     +------------------------------------")
    assert str(entry["problem"]).startswith("ValueError: vvv")
    assert len(str(entry["problem"])) == MAX_VALUE_CHARACTERS


def test_an_exception_may_be_handed_over(journal: Journal) -> None:
    journal.log.error("php", exc_info=ValueError("given"))
    assert [entry["problem"] for entry in journal.entries("php")] == ["ValueError: given"]


@pytest.mark.parametrize("octets", [2001, MAX_STDERR_OCTETS, MAX_STDERR_OCTETS + 300])
def test_of_stderr_both_ends_are_kept(octets: int, journal: Journal) -> None:
    text = "first " + "x" * (octets - 11) + " last"
    journal.log.warning("script stderr", stderr=text, other=text)
    (entry,) = journal.entries("script stderr")
    told = str(entry["stderr"])
    assert (told[:7], told[-6:]) == ("first x", "x last")
    assert len(told) == pytest.approx(min(octets, MAX_STDERR_OCTETS), abs=1)
    assert len(str(entry["other"])) == MAX_VALUE_CHARACTERS


def test_level_and_format_may_change(tmp_path: Path) -> None:
    path, settings = tmp_path / "log", [LogSettings(level=LogLevel.ERROR)]
    file = LogFile(path)
    log = make_changing_log(lambda: settings[-1], file)
    log.warning("dropped")
    log.error("one")
    log.critical("two")
    try:
        raise ValueError("three")
    except ValueError:
        log.exception("failed")
    settings.append(LogSettings(level=LogLevel.INFO, format=LogFormat.JSON))
    log.debug("dropped")
    log.info("four")
    file.close()
    lines = path.read_text().splitlines()
    assert [word for word, line in zip(("one", "two", "three", "four"), lines, strict=True) if word in line] == [
        "one", "two", "three", "four",
    ]  # fmt: skip
    assert json.loads(lines[-1])["event"] == "four"
