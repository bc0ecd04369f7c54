"""What is measured: each scenario is one way of sending mail."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final, final

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB


class Connections(Enum):
    """How long an SMTP connection lives."""

    KEPT = "kept"
    PER_MAIL = "one per mail"


class Dialogue(Enum):
    """How a client talks."""

    LOCKSTEP = "a command, its reply"
    PIPELINED = "MAIL, RCPT and DATA in one write (RFC 2920)"


class Channel(Enum):
    """What the connection is."""

    CLEAR = "clear"
    TLS = "TLS from the first octet"


class Generator(Enum):
    """Who sends."""

    OURS = "benchmarks/clients.py"
    SMTP_SOURCE = "smtp-source(1) of Postfix"


class SaveScript(Enum):
    """What the script does with a mail; the value is its file."""

    COUNT = "save.php"
    SYNC = "save_synced.php"


class Kind(Enum):
    """What is looked at."""

    MAILS = "mails sent as fast as possible"
    IDLE = "connections that do nothing"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One way of sending mail.

    Args:
        octets: of a mail; for smtp-source, too.
        senders: connections at a time.
        connections_idle: of an idle scenario.
        visits_per_second: connections beside the mails, each of which says EHLO and QUIT.
    """

    name: str
    about: str
    kind: Kind = Kind.MAILS
    octets: int = 2 * KIB
    senders: int = 16
    connections: Connections = Connections.KEPT
    dialogue: Dialogue = Dialogue.LOCKSTEP
    channel: Channel = Channel.CLEAR
    generator: Generator = Generator.OURS
    script: SaveScript = SaveScript.COUNT
    connections_idle: int = 0
    visits_per_second: float = 0


SCENARIOS: Final = (
    Scenario(name="kept", about="2 KB, 16 senders, connections kept"),
    Scenario(name="fresh", about="2 KB, 16 senders, a connection per mail", connections=Connections.PER_MAIL),
    Scenario(name="visited", about="as kept, 1,000 connections a second beside", visits_per_second=1_000),
    Scenario(name="pipelined", about="as kept, commands pipelined", dialogue=Dialogue.PIPELINED),
    Scenario(name="source", about="as kept, by smtp-source", generator=Generator.SMTP_SOURCE),
    Scenario(
        name="source-fresh",
        about="as fresh, by smtp-source",
        generator=Generator.SMTP_SOURCE,
        connections=Connections.PER_MAIL,
    ),
    Scenario(name="single", about="2 KB, one sender: the time of one mail", senders=1),
    Scenario(name="synced", about="as kept, the script syncs to disk", script=SaveScript.SYNC),
    Scenario(name="100k", about="100 KB, 16 senders", octets=100 * KIB),
    Scenario(name="5m", about="5 MB, 4 senders", octets=5 * MIB, senders=4),
    Scenario(name="20m", about="20 MB, 4 senders", octets=20 * MIB, senders=4),
    Scenario(name="20m-100", about="20 MB, 100 senders: the memory of a mail", octets=20 * MIB, senders=100),
    Scenario(name="tls", about="as kept, over TLS", channel=Channel.TLS),
    Scenario(
        name="tls-fresh",
        about="as fresh, over TLS",
        channel=Channel.TLS,
        connections=Connections.PER_MAIL,
    ),
    Scenario(name="idle", about="1,000 idle connections", kind=Kind.IDLE, connections_idle=1_000),
    Scenario(name="idle-10k", about="10,000 idle connections", kind=Kind.IDLE, connections_idle=10_000),
)
