"""The mails: each is made of the seed and its number, so that it can be made again when it is looked for."""

import hashlib
import random
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from itertools import pairwise
from typing import Final

SENDER_DOMAIN: Final = "load.example"
DOMAIN: Final = "example.com"
_POOL_OCTETS: Final = 6_000_000  # above the largest mail
_KIB: Final = 1024
#: How large mails are: the share of those up to a size, and that size.
_SIZES: Final = ((0.90, 8 * _KIB), (0.98, 64 * _KIB), (0.998, 1024 * _KIB), (1.0, 5 * 1024 * _KIB))
_RECIPIENTS: Final = (1,) * 80 + (2, 3, 4, 5) * 4 + (20, 49, 50, 50)
_MAX_CHUNKS: Final = 6


class Transfer(Enum):
    """How the content of a mail is sent."""

    DATA = "DATA"
    BDAT = "BDAT"
    BINARY = "BDAT, BODY=BINARYMIME"


@dataclass(frozen=True)
class Mail:
    """One of them.

    Attributes:
        content: as it is to be stored.
    """

    number: int
    sender: str
    recipients: tuple[str, ...]
    transfer: Transfer
    content: bytes

    @cached_property
    def digest(self) -> str:
        """Its mail_digest, by design.md."""
        named = b"".join(one.encode() + b"\0" for one in sorted(set(self.recipients)))
        return hashlib.sha256(self.sender.encode() + b"\0" + named + b"\0" + self.content).hexdigest()

    @property
    def parameters(self) -> str:
        """Those of MAIL."""
        match self.transfer:
            case Transfer.BINARY:
                return " BODY=BINARYMIME"
            case Transfer.DATA | Transfer.BDAT:
                return " BODY=8BITMIME"

    def stuffed(self) -> bytes:
        """For DATA, with the end of data."""
        head = b"." if self.content.startswith(b".") else b""
        return head + self.content.replace(b"\r\n.", b"\r\n..") + b".\r\n"

    def chunks(self, dice: random.Random) -> list[bytes]:
        """For BDAT, each with its command."""
        cuts = sorted(dice.randrange(len(self.content) + 1) for _ in range(dice.choice((0, 0, 1, 2, _MAX_CHUNKS - 1))))
        parts = [self.content[start:end] for start, end in pairwise([0, *cuts, len(self.content)])]
        *first, last = parts
        return [b"BDAT %d\r\n" % len(part) + part for part in first] + [b"BDAT %d LAST\r\n" % len(last) + last]


class Post:
    """Makes mails.

    Args:
        seed: of all of them.
        largest: no mail is larger than so many octets.
    """

    def __init__(self, seed: int, largest: int = _SIZES[-1][1]) -> None:
        self._seed = seed
        self._largest = largest
        self._text = _text(random.Random(seed))
        self._octets = random.Random(seed).randbytes(_POOL_OCTETS)

    def mail(self, number: int) -> Mail:
        """The mail of this number."""
        dice = random.Random(self._seed << 32 | number)
        transfer = dice.choices((Transfer.DATA, Transfer.BDAT, Transfer.BINARY), (6, 3, 1))[0]
        sender = "" if dice.random() < 0.05 else f"s{number}@{SENDER_DOMAIN}"
        recipients = tuple(f"r{number}.{which}@{DOMAIN}" for which in range(dice.choice(_RECIPIENTS)))
        head = b"Subject: %d\r\nFrom: <s@load.example>\r\nX-Seed: %d\r\n\r\n" % (number, self._seed)
        return Mail(number, sender, recipients, transfer, head + self._body(transfer, self._size(dice), dice))

    def _size(self, dice: random.Random) -> int:
        share, below = dice.random(), _KIB
        for upto, size in _SIZES:
            if share <= upto:
                return min(dice.randint(below, size), self._largest)
            below = size
        return self._largest

    def _body(self, transfer: Transfer, octets: int, dice: random.Random) -> bytes:
        pool = self._octets if transfer is Transfer.BINARY else self._text
        start = dice.randrange(_POOL_OCTETS - octets)
        if transfer is Transfer.BINARY:
            return pool[start : start + octets]
        start = pool.index(b"\n", start - 1) + 1 if start else 0
        end = pool.find(b"\r\n", start + octets)
        body = pool[start:end] if end > 0 else pool[start:]
        return body if transfer is Transfer.BDAT and dice.random() < 0.2 else body.rstrip(b"\r\n") + b"\r\n"


def _text(dice: random.Random) -> bytes:
    """Lines as mails have them: long and empty ones, dots in front, 8-bit, what forms have to escape."""
    kinds = (
        lambda: b"",
        lambda: b"." * dice.randint(1, 3),
        lambda: b".." + _line(dice, 30),
        lambda: "Grüße, 漢字 & 100 % = +;?".encode() + _line(dice, 20),
        lambda: _line(dice, 998 - 20),
        *(6 * (lambda: _line(dice, 72),)),
    )
    lines: list[bytes] = [dice.choice(kinds)() for _ in range(2000)]
    text = bytearray()
    while len(text) < _POOL_OCTETS:
        text += b"\r\n".join(dice.sample(lines, 500)) + b"\r\n"
    return bytes(text[: _POOL_OCTETS - 2]).rstrip(b"\r") + b"\r\n"


def _line(dice: random.Random, longest: int) -> bytes:
    return bytes(dice.randrange(0x20, 0x7F) for _ in range(dice.randint(1, longest)))
