"""What an upstream can do wrong: the list of tests/server/test_promise.py, and what only real sockets show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, final

import trio

from tests.server import test_promise
from tests.server.test_promise import Acts, Stage
from tests.support import HEAD, MAIL, Act, Line, end, refuse, stderr, stdout

_RECORD: Final = 65_000 * b"x"
_MEBIBYTE: Final = 1 << 20


@final
@dataclass(frozen=True, slots=True)
class Fault:
    """A fault by name.

    Args:
        act: what is done with each connection; None when nobody listens.
        mail: that it is met with.
        refusal: the one reply that the script has asked for; "" when there is none, and the mail is to come again.
    """

    name: str
    act: Act | None
    mail: bytes = MAIL
    refusal: str = ""


async def _gigabytes(line: Line) -> None:
    await line.request()
    await line.write(stdout(HEAD))
    record = stdout(_RECORD) * 16
    while True:
        await line.write(record)


async def _gigabytes_of_stderr(line: Line) -> None:
    await line.request()
    await line.write(stdout(HEAD + b"SAVED"))
    record = stderr(b"PHP message: again and again; " * 2000) * 16
    while True:
        await line.write(record)


async def _gigabytes_of_strangers(line: Line) -> None:
    await line.request()
    record = stdout(_RECORD, request_id=7) * 16
    while True:
        await line.write(record)


async def _gigabytes_of_head(line: Line) -> None:
    await line.request()
    record = stdout(b"X-Powered-By: nobody\r\n" * 2000) * 16
    while True:
        await line.write(record)


async def _octet_a_minute(line: Line) -> None:
    await line.request()
    for octet in HEAD + b"SAVED":
        await line.write(stdout(bytes([octet])))
        await trio.sleep(60)


async def _request_octet_by_octet(line: Line) -> None:
    """Reads as slowly as it can."""
    while True:
        if not await line.stream.receive_some(1):
            return
        await trio.sleep(60)


def _says(output: bytes) -> Act:
    return Acts(stdout(HEAD + output) + end()).of(Stage.SAVE.token)


_OWN: Final = (
    Fault("gigabytes-of-output", _gigabytes),
    Fault("gigabytes-of-STDERR-after-a-yes", _gigabytes_of_stderr),
    Fault("gigabytes-of-records-of-nobody", _gigabytes_of_strangers),
    Fault("gigabytes-of-head", _gigabytes_of_head),
    Fault("an-octet-a-minute", _octet_a_minute),
    Fault("reads-an-octet-a-minute", _request_octet_by_octet, test_promise.BIG),
    Fault("yes-with-NUL", _says(b"SAVED\0")),
    Fault("yes-with-escapes", _says(b"SAVED \x1b[2J\x1b[31mred")),
    Fault("yes-with-line-separators", _says("SAVED\u2028550 no".encode())),
    Fault("yes-with-a-bare-CR", _says(b"SAVED\rMAIL FROM:<evil@example.net>")),
    Fault("refusal-with-controls", _says(b"550 5.7.1 \x1b[2Jno\x07\0\x9b"), refusal="550 5.7.1"),
    Fault("refusal-with-directions", _says("550 5.7.1 \u202eon\u202c".encode()), refusal="550 5.7.1"),
    Fault("refusal-with-a-bare-CR", _says(b"550 5.7.1 no\r250 2.0.0 OK")),
    Fault("refusal-of-60-KiB", _says(b"550 5.7.1 " + 60_000 * b"x"), refusal="550 5.7.1"),
    Fault("refusal-of-a-mebibyte", _says(b"550 5.7.1 " + _MEBIBYTE * b"x")),
    Fault("refusal-of-a-mebibyte-in-lines", _says(b"550-5.7.1 x\n" * (_MEBIBYTE // 12) + b"550 5.7.1 x")),
)


#: The kernel takes a small request at once, so nobody can tell an upstream that says yes without having looked
#: at it from one that has; a large one is seen not to be read.
_SAYS_YES_UNREAD: Final = frozenset(["SAVED-before-the-request-was-read", "SAVED-and-never-reads"])


def _known() -> list[Fault]:
    found = []
    for one in test_promise.FAULTS:
        if Stage.SAVE in one.stages:
            act = one.act.of(Stage.SAVE.token) if isinstance(one.act, Acts) else one.act
            mail = test_promise.BIG if one.id in _SAYS_YES_UNREAD else one.mail
            found.append(Fault(one.id, None if act is refuse else act, mail))
    return found


FAULTS: Final[Mapping[str, Fault]] = {one.name: one for one in (*_known(), *_OWN)}
