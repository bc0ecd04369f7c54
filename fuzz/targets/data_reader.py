"""The reader of what stands behind DATA, against a reference that is written for clarity.

Input: one octet of profile, one of the limit, two of cut sizes, then what the client sends behind DATA. The end of the
data is put behind it, so that there always is one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Final, final

from trio_fcgimail.smtp import BareNewline
from trio_fcgimail.smtp.buffer import ReceiveBuffer
from trio_fcgimail.smtp.content import ContentJudge, DataReader, Fault, HopelessContentError, Newlines

_CRLF: Final = b"\r\n"
_END: Final = b"\r\n.\r\n"
_BARE: Final = re.compile(rb"\r(?!\n)|(?<!\r)\n")
_LARGEST_PIECE: Final = 65_536
_SETTINGS: Final = tuple(BareNewline)


@final
@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the data.

    Args:
        content: all of it, dots unstuffed; of a message that is refused what it would have been.
        fault: why it is refused.
        rest: what stands behind the end of the data; None when the connection closes before it.
    """

    content: bytes
    fault: Fault
    rest: bytes | None


def reference(wire: bytes, setting: BareNewline, limit: int) -> Outcome:
    """RFC 5321 4.1.1.4 and 4.5.2 as they stand: CRLF alone ends a line, and a line of one dot the data."""
    lines = wire.split(_CRLF)
    end = lines.index(b".")
    rest = _CRLF.join(lines[end + 1 :])
    lines = [line.removeprefix(b".") for line in lines[:end]]  # a CR or LF that is left in one is bare
    if setting is BareNewline.NORMALIZE:
        lines = [line.replace(b"\r", b"").replace(b"\n", _CRLF) for line in lines]
    content = b"".join(line + _CRLF for line in lines)
    bare = _BARE.search(content)
    wanted = content[: bare.start()] if bare and setting is BareNewline.CLOSE else content
    if len(wanted) > 2 * limit:
        return Outcome(content, Fault.TOO_BIG, None)
    if wanted != content:
        return Outcome(content, Fault.BARE_NEWLINE, None)
    return Outcome(content, Fault.TOO_BIG if len(wanted) > limit else Fault.BARE_NEWLINE if bare else Fault.NONE, rest)


def cut(wire: bytes, sizes: Sequence[int]) -> Iterator[bytes]:
    """The octets in pieces of these sizes, over and over."""
    at = 0
    for size in cycle(sizes):
        if at >= len(wire):
            return
        yield wire[at : at + size]
        at += size


def read(wire: bytes, setting: BareNewline, limit: int | None, sizes: Sequence[int]) -> Outcome:
    """What our reader makes of the octets in pieces of these sizes; ``content`` is what it passed on."""
    buffer, judge = ReceiveBuffer(), ContentJudge(setting, Newlines.TEXT, limit)
    reader = DataReader(judge)
    content = bytearray()
    fed = 0
    for piece in cut(wire, sizes):
        buffer.append(piece)
        fed += len(piece)
        try:
            while data := reader.read(buffer):
                assert not data.endswith(b"\r"), "a CRLF may have been split"
                content += data
        except HopelessContentError as exc:
            return Outcome(bytes(content), exc.fault, None)
        if reader.ended:
            return Outcome(bytes(content), judge.fault, buffer.peek(len(buffer)) + wire[fed:])
        assert len(buffer) < len(_END), "more is held back than the end may need"
    raise AssertionError("the end of the data was overlooked")


def check(data: bytes) -> None:
    """One input; raises on a breach.

    Invariants:
        - Nothing but HopelessContentError is raised, and that only where the reference gives up.
        - Content, fault and the octets behind the end are those of the reference, under any cut.
        - Of a message that is refused, nothing is passed on but its beginning, within the limit and without a bare
          newline.
        - No more octets are held back than it takes to tell the end, and no piece ends within a CRLF.
    """
    profile, limit, *sizes = data[:4].ljust(4, b"\0")
    setting = _SETTINGS[profile % len(_SETTINGS)]
    wire = data[4:] + _END
    expected = reference(wire, setting, limit or 2 * len(wire))
    for some in ([_LARGEST_PIECE], [1], [size % 32 + 1 for size in sizes]):
        outcome = read(wire, setting, limit or None, some)
        assert (outcome.fault, outcome.rest) == (expected.fault, expected.rest)
        if outcome.fault is Fault.NONE:
            assert outcome.content == expected.content
        else:
            assert expected.content.startswith(outcome.content)
            assert len(outcome.content) <= (limit or 2 * len(wire))
            assert not _BARE.search(outcome.content), "a bare newline was passed on"
