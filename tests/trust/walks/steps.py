"""What a client does, as values, and the octets of each."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final, final

from tests.trust.walks.moods import Mood

CRLF: Final = b"\r\n"


@final
@dataclass(frozen=True, slots=True)
class Greet:
    """HELO, EHLO or LHLO; the mood is that of the script for helo."""

    word: str
    mood: Mood

    @property
    def name(self) -> str:
        return f"{self.mood.name}.client.example"

    @property
    def wire(self) -> bytes:
        return f"{self.word} {self.name}\r\n".encode()


@final
@dataclass(frozen=True, slots=True)
class Sender:
    """MAIL. The moods are that of the script for mail and that for save; ``size`` is declared, if at all."""

    mood: Mood
    save: Mood
    size: int | None = None

    @property
    def address(self) -> str:
        return f"{self.mood.name}.{self.save.name}@client.example"

    @property
    def wire(self) -> bytes:
        size = "" if self.size is None else f" SIZE={self.size}"
        return f"MAIL FROM:<{self.address}>{size}\r\n".encode()


@final
@dataclass(frozen=True, slots=True)
class Recipient:
    """RCPT; the mood is that of the script for validate."""

    number: int
    mood: Mood
    domain: str = "example.com"

    @property
    def address(self) -> str:
        return f"u{self.number}.{self.mood.name}@{self.domain}"

    @property
    def wire(self) -> bytes:
        return f"RCPT TO:<{self.address}>\r\n".encode()


@final
@dataclass(frozen=True, slots=True)
class Chunk:
    """BDAT, with its octets."""

    content: bytes
    is_last: bool

    @property
    def wire(self) -> bytes:
        return b"BDAT %d%s\r\n" % (len(self.content), b" LAST" if self.is_last else b"") + self.content


@final
@dataclass(frozen=True, slots=True)
class Content:
    """What stands behind the 354, to its end."""

    content: bytes

    @property
    def wire(self) -> bytes:
        """Dots stuffed (RFC 5321 4.5.2)."""
        lines = self.content.split(CRLF)
        assert not lines[-1], "by DATA every line has its end"
        return b"".join((b"." if line.startswith(b".") else b"") + line + CRLF for line in lines[:-1]) + b".\r\n"


class Plain(Enum):
    """Commands that are always the same."""

    DATA = b"DATA\r\n"
    RSET = b"RSET\r\n"
    NOOP = b"NOOP\r\n"
    VRFY = b"VRFY somebody\r\n"
    QUIT = b"QUIT\r\n"
    STARTTLS = b"STARTTLS\r\n"
    UNKNOWN = b"XYZZY\r\n"
    BARE_LF = b"NOOP\nNOOP\r\n"
    BAD_SENDER = b"MAIL FROM:<a@>\r\n"
    BAD_RECIPIENT = b"RCPT TO:<>\r\n"

    @property
    def wire(self) -> bytes:
        return self.value


Step = Greet | Sender | Recipient | Chunk | Content | Plain
