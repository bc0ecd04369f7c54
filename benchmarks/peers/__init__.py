"""Everything that is compared, in the order of the table."""

from __future__ import annotations

from typing import Final

from benchmarks.peers.direct import BLOCKING, CALLS, CEILING, CORES
from benchmarks.peers.haraka import HARAKA
from benchmarks.peers.peer import Peer, Place
from benchmarks.peers.postfix import POSTFIX_LMTP, POSTFIX_PIPE
from benchmarks.peers.python import AIOSMTPD, OURS, OURS_2, OURS_RAW, SKETCH, SKETCH_2

YARDSTICK: Final = SKETCH
PEERS: Final = (
    OURS,
    SKETCH,
    AIOSMTPD,
    HARAKA,
    POSTFIX_PIPE,
    POSTFIX_LMTP,
    OURS_RAW,
    OURS_2,
    SKETCH_2,
    CALLS,
    BLOCKING,
    CEILING,
    CORES,
)

__all__ = ["PEERS", "YARDSTICK", "Peer", "Place"]
