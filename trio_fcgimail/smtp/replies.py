"""Replies as values (RFC 5321 4.2, enhanced codes RFC 2034 and 3463)."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Final, final

from trio_fcgimail.smtp import grammar
from trio_fcgimail.smtp.errors import LocalProtocolError
from trio_fcgimail.smtp.symbol import Symbol

MAX_REPLY_LINE_OCTETS: Final = 512  # RFC 5321 4.5.3.1.5, code and CRLF included
_CHALLENGE: Final = 334  # RFC 4954 4: its blank is no padding, but stands before a challenge of no octets as well
MAX_REPLY_LINES: Final = 64  # ours: EHLO needs a dozen; a script's refusal must stay readable

# Printable text without controls, C1 controls and the two Unicode line ends. RFC 5321 4.2 allows HT; nobody needs it.
_TEXT: Final = re.compile(rf"{grammar.TEXT}*")


class Outcome(Symbol):
    """What a reply means to the state table."""

    OK = "2xx"
    GO = "3xx"
    NO = "4xx or 5xx"
    CLOSE = "421 or 521"


@final
@dataclass(frozen=True, slots=True)
class EnhancedCode:
    """An enhanced status code, ``class.subject.detail`` (RFC 3463 2). Raises LocalProtocolError when out of range."""

    klass: int
    subject: int
    detail: int

    def __post_init__(self) -> None:
        if self.klass not in (2, 4, 5) or not (0 <= self.subject <= 999 and 0 <= self.detail <= 999):
            raise LocalProtocolError(f"not an enhanced status code: {self}")

    def __str__(self) -> str:
        return f"{self.klass}.{self.subject}.{self.detail}"


@final
@dataclass(frozen=True, slots=True)
class Reply:
    """One reply: a code, an enhanced code where the reply carries one, and its lines of text.

    Args:
        code: 200 to 599 (RFC 5321 4.2.1); 1xx does not exist in SMTP.
        enhanced: None for greetings, EHLO, HELO and 3xx (RFC 2034 4); else of the class of the code.
        lines: at least one, each printable and without CR, LF and NUL.

    Attributes:
        outcome: what the reply does to the state: 421 and 521 close, else the first digit decides.

    Raises:
        LocalProtocolError: any of these does not hold, so that no foreign octet can end a reply early.
    """

    code: int
    enhanced: EnhancedCode | None
    lines: tuple[str, ...]
    outcome: Outcome = field(init=False, repr=False, compare=False)
    # Most replies are said many times. By whether with the enhanced code, and with UTF-8:
    _wire: dict[tuple[bool, bool], bytes] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        if not 200 <= self.code <= 599:
            raise LocalProtocolError(f"not an SMTP reply code: {self.code}")
        if self.enhanced is not None and self.enhanced.klass != self.code // 100:
            raise LocalProtocolError(f"enhanced code {self.enhanced} does not fit {self.code}")
        if not 1 <= len(self.lines) <= MAX_REPLY_LINES:
            raise LocalProtocolError(f"a reply has 1 to {MAX_REPLY_LINES} lines, not {len(self.lines)}")
        if not all(_TEXT.fullmatch(line) for line in self.lines):
            raise LocalProtocolError("a reply line holds a control character")
        if any(len(line.encode()) > MAX_REPLY_LINE_OCTETS - 18 for line in self.lines):
            raise LocalProtocolError(f"a reply line is longer than {MAX_REPLY_LINE_OCTETS} octets")
        object.__setattr__(self, "outcome", _outcome_of(self.code))

    @property
    def text(self) -> str:
        """The reply in one line, for logs: codes and text as a client reads them."""
        codes = f"{self.code}" if self.enhanced is None else f"{self.code} {self.enhanced}"
        return " ".join([codes, *filter(None, self.lines)])

    def with_lines(self, *lines: str) -> Reply:
        """The same codes with other text."""
        return replace(self, lines=lines)

    def render(self, *, enhanced: bool = True, utf8: bool = False) -> bytes:
        """Encode the reply for the wire.

        Args:
            enhanced: write the enhanced code on every line (RFC 2034 4).
            utf8: the client asked for SMTPUTF8, so that UTF-8 may be sent (RFC 6531 3.7.4); else ``?`` stands in.
        """
        if (wire := self._wire.get((enhanced, utf8))) is None:
            wire = self._wire[enhanced, utf8] = self._encode(enhanced=enhanced, utf8=utf8)
        return wire

    def _encode(self, *, enhanced: bool, utf8: bool) -> bytes:
        code = f"{self.enhanced} " if enhanced and self.enhanced is not None else ""
        last = len(self.lines) - 1
        text = "".join(
            f"{self.code}{' ' if number == last else '-'}{code}{line}".rstrip("" if self.code == _CHALLENGE else " ")
            + "\r\n"
            for number, line in enumerate(self.lines)
        )
        return text.encode("utf-8" if utf8 else "ascii", "replace")


def _outcome_of(code: int) -> Outcome:
    if code in (421, 521):
        return Outcome.CLOSE
    return {2: Outcome.OK, 3: Outcome.GO}.get(code // 100, Outcome.NO)
