"""docs/protocol-support.md names only what exists, leaves nothing out, and claims nothing that is refused."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import pytest
from trio.testing import memory_stream_pair

from fuzz.targets.smtp_server import Session
from tests.smtp import support
from tests.smtp.test_auth import ROWS as AUTH_ROWS
from tests.smtp.test_bdat import ROWS as BDAT_ROWS
from tests.smtp.test_dsn import ROWS as DSN_ROWS
from tests.smtp.test_lmtp import ROWS as LMTP_ROWS
from tests.smtp.test_path_rows import ROWS as PATH_ROWS
from tests.smtp.test_session_rows import ROWS as SESSION_ROWS
from tests.smtp.test_smuggling import AT_START, MARKERS, TRUE_ENDS
from tests.smtp.test_starttls import ROWS as STARTTLS_ROWS
from tests.smtp.test_xclient import ROWS as XCLIENT_ROWS
from tests.transcripts import load
from trio_fcgimail.server.outlet import Outlet
from trio_fcgimail.server.wire import StreamWire
from trio_fcgimail.smtp import CommandRejected, ConnectionClosed, Extension, Reply, State, catalogue
from trio_fcgimail.smtp.commands import WORDS

ROOT: Final = Path(__file__).parents[1]
PAGE: Final = (ROOT / "docs" / "protocol-support.md").read_text(encoding="utf-8")
DONE, NOT_DONE, SECURITY = "What we do", "What we do not do, and why", "Security"
SUBJECTS: Final = 21  # of the section on security

ROW_IDS: Final[Mapping[str, frozenset[str]]] = {
    "tests/smtp/test_auth.py": frozenset(row.id for row in AUTH_ROWS),
    "tests/smtp/test_bdat.py": frozenset(row.id for row in BDAT_ROWS),
    "tests/smtp/test_dsn.py": frozenset(row.id for row in DSN_ROWS),
    "tests/smtp/test_lmtp.py": frozenset(row.id for row in LMTP_ROWS),
    "tests/smtp/test_path_rows.py": frozenset(row.id for row in PATH_ROWS),
    "tests/smtp/test_session_rows.py": frozenset(row.id for row in SESSION_ROWS),
    "tests/smtp/test_smuggling.py": frozenset(marker.id for marker in (*MARKERS, *AT_START, *TRUE_ENDS)),
    "tests/smtp/test_starttls.py": frozenset(row.id for row in STARTTLS_ROWS),
    "tests/smtp/test_xclient.py": frozenset(row.id for row in XCLIENT_ROWS),
}
DIALOGUES: Final = frozenset(f"tests/dialogues/{transcript.name}.txt" for transcript in load())

CODE: Final = re.compile(r"`([^`\n]+)`")
TEST: Final = re.compile(r"(?P<path>tests/[\w/-]+\.py)(?:::(?P<function>\w+)|\[(?P<rows>[^\[\]]+)\])?")
MODULE: Final = re.compile(r"[\w/]+\.py")
REPLY: Final = re.compile(r"\b([2-5][0-9]{2}) ([245]\.[0-9]+\.[0-9]+)")
LINK: Final = re.compile(r"\]\(([\w.-]+\.md)(?:#[\w-]+)?\)")
OUR_REPLIES: Final = frozenset(
    (str(reply.code), str(reply.enhanced)) for reply in vars(catalogue).values() if isinstance(reply, Reply)
)


@dataclass(frozen=True, slots=True)
class Line:
    """A row of one of the page's tables."""

    section: str
    cells: tuple[str, ...]

    @property
    def subjects(self) -> list[str]:
        """The words in code of its first cell: keywords and commands."""
        return CODE.findall(self.cells[0])


def lines(page: str) -> Iterator[Line]:
    section = ""
    for line in page.splitlines():
        if line.startswith("## "):
            section = line.removeprefix("## ")
        elif line.startswith("| ") and not line.startswith(("| ---", "| RFC clause |", "| subject |")):
            yield Line(section, tuple(cell.strip() for cell in line.strip("|").split("|")))


def subjects(page: str, section: str) -> set[str]:
    return {subject for line in lines(page) if line.section == section for subject in line.subjects}


@cache
def functions(path: str) -> tuple[str, ...]:
    """The functions at the top of a file: pytest runs those of them that are called test."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return tuple(node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def problem_of_test(name: str) -> str | None:
    """Why a test that is named cannot be run, or None."""
    if name.startswith("tests/dialogues/"):
        return None if name in DIALOGUES or name == "tests/dialogues/NAME.txt" else f"no transcript: {name}"
    found = TEST.fullmatch(name)
    if found is None:
        return f"no test: {name}"
    path, function, rows = found["path"], found["function"], found["rows"]
    if path == "tests/FILE.py":  # what the page explains its notation with
        return None
    if not Path(path).name.startswith("test_") or not (ROOT / path).is_file():
        return f"no file of tests: {path}"
    if function is not None and not (function.startswith("test_") and functions(path).count(function) == 1):
        return f"no test: {name}"
    if rows is not None and not {row.strip() for row in rows.split(",")} <= ROW_IDS.get(path, frozenset()):
        return f"no such row: {name}"
    return None


def problems(page: str) -> list[str]:
    """Everything that is wrong with the page."""
    return [*names(page), *shape(page), *replies(page), *left_out(page), *boasts(page)]


def names(page: str) -> Iterator[str]:
    for name in CODE.findall(page):
        if name.startswith("tests/"):
            if (problem := problem_of_test(name)) is not None:
                yield problem
        elif MODULE.fullmatch(name) and not (ROOT / "trio_fcgimail" / name).is_file():
            yield f"no module: {name}"
    for target in LINK.findall(page):
        if not (ROOT / "docs" / target).is_file():
            yield f"no page: {target}"


def shape(page: str) -> Iterator[str]:
    for line in lines(page):
        match line.section, line.cells:
            case (("What we do" | "Security" | "Faults of other servers"), (_, _, module, test)):
                if not any(MODULE.fullmatch(name) for name in CODE.findall(module)):
                    yield f"without a module: {line.cells[0]}"
                is_tested = any(name.startswith("tests/") for name in CODE.findall(test))
                if not is_tested and (test != "not yet" or line.section == DONE):
                    yield f"without a test: {line.cells[0]}"
            case "What we do not do, and why", (_, happens, why):
                if not happens or not why:
                    yield f"without a reason: {line.cells[0]}"
            case _:
                yield f"not of this table: {line.cells}"
    if (count := sum(line.section == SECURITY for line in lines(page))) != SUBJECTS:
        yield f"{count} subjects of security"


def replies(page: str) -> Iterator[str]:
    for code, enhanced in REPLY.findall(page):
        if (code, enhanced) not in OUR_REPLIES:
            yield f"no reply of ours: {code} {enhanced}"


def left_out(page: str) -> Iterator[str]:
    done = subjects(page, DONE)
    for extension in Extension:
        if extension.value not in done:
            yield f"no row for the keyword {extension.value}"
    mentioned = set(CODE.findall(page))
    for state in State:
        if state.name not in mentioned:
            yield f"no word of the state {state.name}"
    for word in WORDS:
        section = NOT_DONE if word in refused_words() else DONE
        if word not in subjects(page, section):
            yield f"{word} is not in the section: {section}"


def boasts(page: str) -> Iterator[str]:
    for word in sorted(subjects(page, DONE) & {*refused_words(), *refused_parameters()}):
        yield f"done on paper only: {word}"
    for parameter in refused_parameters():
        if not any(re.search(rf"\b{parameter}\b", " ".join(line.cells)) for line in lines(page)):
            yield f"no word of the parameter {parameter}"


@cache
def refused_words() -> frozenset[str]:
    """The commands that the core answers 502, all its extensions being offered."""
    everything = support.EVERYTHING
    answers = {word: support.in_state(State.READY, everything).feed(f"{word} x\r\n".encode()) for word in WORDS}
    return frozenset(word for word, answer in answers.items() if answer.startswith(b"502 "))


@cache
def refused_parameters() -> frozenset[str]:
    """Well-known parameters of MAIL that the core answers 555."""
    values = {"AUTH": "=<>", "REQUIRETLS": "", "BY": "=9;R", "MT-PRIORITY": "=1", "HOLDFOR": "=9", "RET": "=FULL"}
    answers = {
        keyword: support.in_state(State.READY, support.TLS_OPTIONS).feed(
            f"MAIL FROM:<a@b.c> {keyword}{value}\r\n".encode()
        )
        for keyword, value in values.items()
    }
    return frozenset(keyword for keyword, answer in answers.items() if answer.startswith(b"555 "))


def test_page_is_true() -> None:
    assert problems(PAGE) == []


def test_what_the_core_refuses() -> None:
    assert refused_words() == {"EXPN"}
    assert refused_parameters() == {"BY", "MT-PRIORITY", "HOLDFOR"}


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        pytest.param("`smtp/order.py`", "`smtp/orders.py`", "no module: smtp/orders.py", id="module"),
        pytest.param("::test_command_line`", "::test_command_lines`", "no test: ", id="function"),
        pytest.param(
            "test_limits.py::test_command_line`", "support.py::codes`", "no file of tests: ", id="no-test-file"
        ),
        pytest.param("`tests/dialogues/size-real.txt`", "`tests/dialogues/size.txt`", "no transcript: ", id="dialogue"),
        pytest.param("[line-of-998, ", "[line-of-999, ", "no such row: ", id="row-id"),
        pytest.param("`tests/smtp/test_dsn.py[lmtp]`", "`tests/smtp/test_dsn[lmtp]`", "no test: ", id="notation"),
        pytest.param("`DSN`, 6533 3 |", "DSN, 6533 3 |", "no row for the keyword DSN", id="keyword"),
        pytest.param("`CHUNKS_REFUSED`", "refused", "no word of the state CHUNKS_REFUSED", id="state"),
        pytest.param("4.1.1.5 `RSET` |", "4.1.1.5 reset |", "RSET is not in the section: What we do", id="verb"),
        pytest.param("3.5.2 `EXPN`", "3.5.2", "EXPN is not in the section: What we do not", id="not-named"),
        pytest.param("4.1.1.5 `RSET` |", "`RSET`, `EXPN` |", "done on paper only: EXPN", id="boast"),
        pytest.param("6710 MT-PRIORITY, ", "", "no word of the parameter MT-PRIORITY", id="parameter"),
        pytest.param("221 2.0.0", "221 2.0.1", "no reply of ours: 221 2.0.1", id="reply"),
        pytest.param("[design.md](design.md)", "[design.md](designs.md)", "no page: designs.md", id="link"),
        pytest.param("| passwords | never", "passwords never", "20 subjects of security", id="subject"),
        pytest.param("| `smtp/options.py`, `smtp/order.py` |", "| all |", "without a module: 2033", id="no-module"),
        pytest.param("| they ask for a queue |", "| |", "without a reason: 2852", id="no-reason"),
    ],
)
def test_a_page_with_a_lie_is_found_out(old: str, new: str, problem: str) -> None:
    assert old in PAGE
    found = problems(PAGE.replace(old, new))
    assert any(one.startswith(problem) for one in found), found


def test_a_row_without_a_test_is_found_out() -> None:
    (row,) = [line for line in PAGE.splitlines() if line.startswith("| 5321 4.1.1.5 `RSET`")]
    bare = row.rpartition(" | ")[0] + " | not yet |"
    assert problems(PAGE.replace(row, bare)) == ["without a test: 5321 4.1.1.5 `RSET`"]


# What the page claims and no other test shows


@pytest.mark.parametrize(
    ("wire", "refusals"),
    [
        pytest.param(b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 25\r\nNOOP\r\n", [], id="text"),
        pytest.param(b"proxy unknown\r\nNOOP\r\n", [], id="lower-case"),
        pytest.param(
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\2\1\xc0\0\2\2\xdc\4\0\x19\r\nNOOP\r\n",
            ["500 5.5.2"] * 2,
            id="binary",
        ),
    ],
)
@pytest.mark.parametrize("state", [State.START, State.READY, State.RCPT], ids=lambda state: state.name)
def test_a_header_of_proxy_gets_nowhere(wire: bytes, refusals: list[str], state: State) -> None:
    """To the core it is a word of another protocol: nothing is asked of the embedder, and it closes."""
    session = support.in_state(state)
    before = len(session.events)
    assert support.codes(session.feed(wire)) == [*refusals, "421 4.7.0"]
    assert {type(event) for event in session.events[before:]} <= {CommandRejected, ConnectionClosed}
    assert session.closed


@pytest.mark.trio
async def test_a_reply_of_many_lines_is_one_write() -> None:
    """A client that takes the reply to EHLO by a single read must get all of it."""
    writes: list[bytes] = []
    ours, _ = memory_stream_pair()

    async def note() -> None:
        writes.append(bytes(ours.send_stream.get_data_nowait()))

    ours.send_stream.send_all_hook = note
    outlet = Outlet(StreamWire(ours), 1)
    outlet.say(Session(support.OPTIONS).feed(support.EHLO))
    await outlet.flush()
    (whole,) = writes
    assert whole.startswith(b"250-mx.example.com\r\n")
    assert whole.endswith(b"RCPTMAX=100\r\n")
