"""What senders know of their mails: each attempt, how far it came, and what it was told."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import assert_never


class Route(Enum):
    """How a sender comes."""

    PLAIN = "SMTP"
    STARTTLS = "SMTP, STARTTLS"
    IMPLICIT = "SMTP, TLS from the first octet"
    LMTP = "LMTP over a unix socket"


class Phase(Enum):
    """Where a sender cuts its connection."""

    GREETING = "before the greeting"
    HELLO = "after EHLO"
    HANDSHAKE = "within a TLS handshake"
    MAIL = "after MAIL"
    RECIPIENTS = "after RCPT"
    BEGUN = "after 354, or before the first BDAT"
    CONTENT = "within the content"
    LAST_OCTET = "before the last octet of a mail"
    ANSWER = "before the answer to a mail"


class Manner(Enum):
    """How it does that."""

    RESET = "reset"
    CLOSE = "closed"
    HALF = "half closed"


class Outcome(Enum):
    """What became of an attempt."""

    SAVED = "250"
    DEFERRED = "4xx to the content"
    UNANSWERED = "no answer to the content"
    UNFINISHED = "the content was not sent to its end"
    REFUSED = "5xx"


@dataclass(slots=True)
class Attempt:
    """One mail over one connection.

    Attributes:
        connection: its number, which the script knows as helo.
        began: by the clock of the run, in seconds.
        is_sent: whether the end of the content may have reached the server.
        replies: to the end of the content.
        note: what went on.
    """

    number: int
    connection: int
    route: Route
    began: float
    is_sent: bool = False
    replies: list[str] = field(default_factory=list)
    note: str = ""
    is_refused: bool = False
    ended: float = 0.0

    @property
    def is_promised(self) -> bool:
        """Whether a 250 was given, be it for some recipients of LMTP only."""
        return any(reply.startswith("250") for reply in self.replies)

    @property
    def outcome(self) -> Outcome:
        """What became of it, in the eyes of the sender."""
        if self.is_refused:
            return Outcome.REFUSED
        if not self.is_sent:
            return Outcome.UNFINISHED
        if not self.replies or "" in self.replies:
            return Outcome.UNANSWERED
        return Outcome.SAVED if all(reply.startswith("250") for reply in self.replies) else Outcome.DEFERRED

    @property
    def may_have_run(self) -> bool:
        """Whether the script may have stored it: 452 and 450 are given before anybody has asked it."""
        match self.outcome:
            case Outcome.SAVED | Outcome.UNANSWERED:
                return True
            case Outcome.DEFERRED:
                return any(reply.startswith(("250", "451", "421")) for reply in self.replies)
            case Outcome.UNFINISHED | Outcome.REFUSED:
                return False
            case never:
                assert_never(never)

    def __str__(self) -> str:
        replies = " / ".join(dict.fromkeys(self.replies)) or "-"
        return (
            f"{self.began:.3f} to {self.ended:.3f} s, connection c{self.connection}, {self.route.value}: "
            f"{self.outcome.value}; {replies}; {self.note}"
        )


class Attempts:
    """All of them, by mail."""

    def __init__(self) -> None:
        self._of: defaultdict[int, list[Attempt]] = defaultdict(list)
        self.saved = 0

    def add(self, attempt: Attempt) -> None:
        """One more, which is over."""
        self._of[attempt.number].append(attempt)
        self.saved += attempt.outcome is Outcome.SAVED

    def of(self, number: int) -> list[Attempt]:
        """Those of one mail."""
        return self._of.get(number, [])

    def __iter__(self) -> Iterator[Attempt]:
        return (attempt for attempts in self._of.values() for attempt in attempts)
