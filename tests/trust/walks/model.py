"""A server in the words of the RFCs and of the design: what it owes for each step, and what its scripts see.

Written from RFC 5321, 3030, 3207 and 2033, without a look at the state table of the product.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from typing import Final, assert_never, final

from tests.trust.walks.moods import BY_NAME, UNKNOWN, Fault, said_to_each
from tests.trust.walks.steps import CRLF, Chunk, Content, Greet, Plain, Recipient, Sender, Step

MAX_OCTETS: Final = 1000  # of a message
MAX_RECIPIENTS: Final = 3
_BARE: Final = re.compile(rb"\r(?!\n)|(?<!\r)\n")
_CLOSING: Final = (421, 521)
_PLAIN: Final = {Plain.NOOP: 250, Plain.VRFY: 252, Plain.UNKNOWN: 500, Plain.BARE_LF: 500}


@final
@dataclass(frozen=True, slots=True)
class Seen:
    """What a script was asked; of a mail also whom it is for, what it is, its digest and whether it came by TLS."""

    stage: str
    about: str
    recipients: tuple[str, ...] = ()
    content: bytes = b""
    digest: str = ""
    tls: bool = False


@final
@dataclass(frozen=True, slots=True)
class House:
    """What stays the same in a walk: the dialect, which stages have scripts, whether there is STARTTLS."""

    lmtp: bool
    validates: bool
    asks: bool
    offers_tls: bool


@final
@dataclass(slots=True)
class Model:
    """One connection after the other, to one server.

    Attributes:
        seen: what the scripts must have been asked, in order.
        promised: how many replies said that a mail is ours.
        is_down: no script can be reached.
        retires: others serve from now on; this connection may be told 421 between two mails.
    """

    house: House
    seen: list[Seen] = field(default_factory=list)
    promised: int = 0
    is_down: bool = False
    retires: bool = False
    closed: bool = True
    greeting: Greet | None = None
    tls: bool = False
    handshake_due: bool = False
    sender: Sender | None = None
    recipients: list[str] = field(default_factory=list)
    in_data: bool = False
    chunks: bytes | None = None  # None: no BDAT yet
    refusal: int = 0  # of the chunks

    def connect(self) -> list[int]:
        """RFC 5321 3.1."""
        self.closed = self.retires = False
        self._forget_all()
        return [220]

    @property
    def may_be_told_to_go(self) -> bool:
        """Never within a mail: that goes on to its verdict."""
        return self.retires and self.sender is None

    def vanish(self) -> None:
        """The client is gone; what was not complete is nobody's."""
        self.closed = True
        self._forget()

    def shake_hands(self) -> None:
        """RFC 3207 4.2: all that was learnt before is forgotten."""
        self._forget_all()
        self.tls = True

    def _forget_all(self) -> None:
        self.greeting, self.tls, self.handshake_due = None, False, False
        self._forget()

    def _forget(self) -> None:
        self.sender, self.in_data, self.chunks, self.refusal = None, False, None, 0
        self.recipients.clear()

    def hear(self, step: Step) -> list[int]:
        """The codes of the replies that a step is owed."""
        assert not self.closed
        assert self.in_data == isinstance(step, Content)
        match step:
            case Greet():
                return [self._greet(step)]
            case Sender():
                return [self._mail(step)]
            case Recipient():
                return [self._rcpt(step)]
            case Chunk():
                return self._chunk(step)
            case Content(content=content):
                return self._end_data(content)
            case Plain():
                return [self._plain(step)]
            case _:
                assert_never(step)

    def _plain(self, step: Plain) -> int:
        match step:
            case Plain.QUIT:
                self.vanish()
                return 221
            case Plain.RSET:
                self._forget()
                return 250
            case Plain.DATA if self.recipients and self.chunks is None:
                self.in_data = True
                return 354
            case Plain.BAD_SENDER if self.greeting is not None and self.sender is None:
                return 501
            case Plain.BAD_RECIPIENT if self.sender is not None and self.chunks is None:
                return 501
            case Plain.STARTTLS:
                return self._starttls()
            case _:
                return _PLAIN.get(step, 503)

    def _starttls(self) -> int:
        if not self.house.offers_tls or (self.greeting is not None and self.greeting.word == "HELO"):
            return 502
        if self.tls or self.greeting is None:
            return 503
        self.handshake_due = True
        return 220

    def _greet(self, step: Greet) -> int:
        if (step.word == "LHLO") is not self.house.lmtp:
            return 500
        code = self._ask("helo", step.name) if self.house.asks else 250
        if code == 250:
            self.greeting = step
            self._forget()
        return code

    def _mail(self, step: Sender) -> int:
        if self.greeting is None or self.sender is not None:
            return 503
        if step.size is not None and self.greeting.word == "HELO":
            return 555
        if step.size is not None and step.size > MAX_OCTETS:
            return 552
        code = self._ask("mail", step.address) if self.house.asks else 250
        if code == 250:
            self.sender = step
        return code

    def _rcpt(self, step: Recipient) -> int:
        if self.sender is None or self.chunks is not None:
            return 503
        if len(self.recipients) == MAX_RECIPIENTS:
            return 452
        if step.domain != "example.com":
            return 550
        code = self._ask("validate", step.address) if self.house.validates else 250
        if code == 250:
            self.recipients.append(step.address)
        return code

    def _ask(self, stage: str, about: str) -> int:
        """A question to a script whose mood is in the name; validate has one more try where it may not have run."""
        if self.is_down:
            return 451
        mood = BY_NAME[re.split(r"[.@]", about)[1 if stage == "validate" else 0]]
        self.seen += [Seen(stage, about)] * (2 if stage == "validate" and mood.question in UNKNOWN else 1)
        self.closed = mood.reply in _CLOSING
        return mood.reply

    def _end_data(self, content: bytes) -> list[int]:
        """RFC 5321 4.1.1.4, RFC 1870 6.3."""
        if len(content) > 2 * MAX_OCTETS:
            self.vanish()
            return [552]
        self.refusal = 552 if len(content) > MAX_OCTETS else 550 if _BARE.search(content) else 0
        return self._end(content)

    def _chunk(self, step: Chunk) -> list[int]:
        """RFC 3030 2: a refusal holds for all the chunks of a mail."""
        if self.greeting is not None and self.greeting.word == "HELO":
            return [502]
        if not self.recipients:
            return [503]
        so_far = self.chunks or b""
        self.chunks = so_far + step.content
        if not self.refusal and len(self.chunks) > MAX_OCTETS:
            self.refusal = 552
        whole = self.chunks if step.is_last else self.chunks.removesuffix(b"\r")  # whose LF may come yet
        if not self.refusal and _BARE.search(whole):
            self.refusal = 550
        return self._end(self.chunks) if step.is_last else [self.refusal or 250]

    def _end(self, content: bytes) -> list[int]:
        """The mail is complete: a verdict, in LMTP one for each recipient (RFC 2033 4.2)."""
        assert self.sender is not None
        owed = len(self.recipients) if self.house.lmtp else 1
        codes = [self.refusal] * owed if self.refusal else self._save(self.sender, content, owed)
        self._forget()
        self.promised += codes.count(250)
        self.closed = bool(set(codes) & set(_CLOSING))
        return codes

    def _save(self, sender: Sender, content: bytes, owed: int) -> list[int]:
        if self.is_down:
            return [451] * owed
        recipients = tuple(self.recipients)
        parts = (sender.address, *sorted(set(recipients)), "")
        digest = hashlib.sha256(b"".join(part.encode() + b"\0" for part in parts) + content).hexdigest()
        read = content.replace(CRLF, b"\n")
        if content[:1] in (b" ", b"\t"):  # RFC 5322 2.2.3: it would be the rest of the trace field in front of it
            read = b"\n" + read
        self.seen.append(Seen("save", sender.address, recipients, read, digest, self.tls))
        if sender.save.save is not Fault.EACH:
            return [sender.save.verdict] * owed
        lines = [
            250 if line.startswith(b"SAVED") else int(line[:3]) for line in said_to_each(len(recipients)).split(b"\n")
        ]
        if len(lines) == 1:
            return lines
        return lines if self.house.lmtp else [451]
