"""What the scripts do, and what it is worth.

The mood of a script is written where the script can read it: in the name that the client gives itself, in the sender,
in the recipient. So a question that is asked again gets the same answer, and a script needs no memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final, final


class Fault(Enum):
    """What goes wrong behind a request that the script has got whole."""

    CLOSES = "the connection closes without a word"
    HALF = "the connection closes behind a yes, without END_REQUEST"
    HANGS = "nothing comes within the deadline"
    STATUS = "a yes comes with status 500"
    EACH = "no fault: one line for each recipient, yes and no in turn"


#: What leaves open whether the script has run: one more try for a question, none for a mail (design, section 8).
UNKNOWN: Final = frozenset({Fault.CLOSES, Fault.HALF, Fault.HANGS})
Says = bytes | Fault
YES_OR_NO: Final = (b"SAVED", b"552 5.2.2 Mailbox full")


@final
@dataclass(frozen=True, slots=True)
class Mood:
    """One way to answer.

    Args:
        name: as it stands in addresses.
        question: what is said to a question (helo, mail, validate).
        reply: the code that the client is owed for it (design, section 7).
        save: what is said to a mail.
        verdict: the code that is owed for it.
    """

    name: str
    question: Says
    reply: int
    save: Says
    verdict: int


YES: Final = Mood("yes", b"PASSED", 250, b"SAVED", 250)
EACH: Final = Mood("each", b"PASSED", 250, Fault.EACH, 0)  # by the number of recipients
MOODS: Final = (
    YES,
    EACH,
    Mood("words", b" PASSED as a friend\r\n", 250, b"SAVED in the attic\n", 250),
    Mood("named", b"PASSED", 250, b"SAVED id=a.B-7", 250),
    Mood("throws", b"PASSED", 250, b"DISCARD", 250),
    Mood("no", b"550 5.1.1 No such user", 550, b"550 5.7.1 Not wanted", 550),
    Mood("later", b"450 4.2.1 Later", 450, b"452 4.2.2 Full", 452),
    Mood("lines", b"554-5.7.1 No\n554 5.7.1 and no again", 554, b"554-5.6.0 No\n554 5.6.0 and no again", 554),
    Mood("bye", b"421 4.3.2 Bye", 421, b"421 4.3.2 Bye", 421),
    Mood("never", b"521 5.3.2 Never", 521, b"521 5.3.2 Never", 521),
    Mood("talk", b"Who is that?", 550, b"thank you", 451),
    Mood("silent", b"", 451, b" \r\n", 451),
    Mood("wrong", b"SAVED", 451, b"PASSED", 451),
    Mood("more", b"PASSED\nand more", 451, b"SAVED\nPHP Fatal error: Uncaught Error", 451),
    Mood("status", Fault.STATUS, 451, Fault.STATUS, 451),
    Mood("closes", Fault.CLOSES, 451, Fault.CLOSES, 451),
    Mood("half", Fault.HALF, 451, Fault.HALF, 451),
    Mood("hangs", Fault.HANGS, 451, Fault.HANGS, 451),
)
BY_NAME: Final = {mood.name: mood for mood in MOODS}


def said_to_each(recipients: int) -> bytes:
    """The answer of `EACH` to a mail: a line for each recipient."""
    return b"\n".join(YES_OR_NO[number % len(YES_OR_NO)] for number in range(recipients))
