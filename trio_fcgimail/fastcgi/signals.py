"""What `next_event()` returns when there is no event."""

from enum import Enum, auto
from typing import Final, Literal, final


@final
class Signal(Enum):
    """The two reasons for having no event."""

    NEED_DATA = auto()
    """Read from the peer and hand what came to `receive_data()`, `b""` at end of file."""

    PAUSED = auto()
    """Do not read. The next record waits until the embedder has ended the request in hand."""


NEED_DATA: Final[Literal[Signal.NEED_DATA]] = Signal.NEED_DATA
PAUSED: Final[Literal[Signal.PAUSED]] = Signal.PAUSED
