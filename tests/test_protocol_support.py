"""docs/protocol-support.md names only what exists, leaves nothing out, and claims nothing that is refused."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Final

import pytest
from trio.testing import memory_stream_pair

from fuzz.targets.smtp_server import Session
from tests.pages import CODE, MODULE, ROOT, lines, names
from tests.smtp import support
from trio_fcgimail.server.outlet import Outlet
from trio_fcgimail.server.wire import StreamWire
from trio_fcgimail.smtp import CommandRejected, ConnectionClosed, Extension, Reply, State, catalogue
from trio_fcgimail.smtp.commands import WORDS

PAGE: Final = (ROOT / "docs" / "protocol-support.md").read_text(encoding="utf-8")
DONE, NOT_DONE, SECURITY = "What we do", "What we do not do, and why", "Security"
SUBJECTS: Final = 21  # of the section on security

REPLY: Final = re.compile(r"\b([2-5][0-9]{2}) ([245]\.[0-9]+\.[0-9]+)")
OUR_REPLIES: Final = frozenset(
    (str(reply.code), str(reply.enhanced)) for reply in vars(catalogue).values() if isinstance(reply, Reply)
)


def subjects(page: str, section: str) -> set[str]:
    return {subject for line in lines(page) if line.section == section for subject in line.subjects}


def problems(page: str) -> list[str]:
    """Everything that is wrong with the page."""
    return [*names(page), *shape(page), *replies(page), *left_out(page), *boasts(page)]


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
