"""Without file descriptors: the server waits for some to be free, at no cost, and goes on when they are."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

from tests.server_process import eventually
from tests.trust.hostile.field import HOST, attacking_socket
from tests.trust.hostile.house import WORKERS, Guard, House, descriptors_of, house
from tests.trust.hostile.running import Good, good_load

DESCRIPTORS: Final = 64
_CONNECTIONS: Final = 2 * WORKERS * DESCRIPTORS
_CPU_SECONDS: Final = 1.0


@final
@dataclass(frozen=True, slots=True)
class Found:
    """What came of it.

    Args:
        cpu_share: of one core, used by all processes while they were out of descriptors.
        told: lines of the log that say so.
        afterwards: the good load when they are back.
    """

    cpu_share: float
    told: int
    afterwards: Good


def run_out(folder: Path, seconds: float) -> Found:
    """Have more connections than there can be descriptors for, then none of them."""
    with house(folder, Guard.OPEN, descriptors=DESCRIPTORS) as one:
        before = one.state()
        with ExitStack() as stack:
            for _ in range(_CONNECTIONS):
                sock = stack.enter_context(attacking_socket())
                sock.connect((HOST, one.port))
            eventually(lambda: _is_out(one), "no descriptor is left")
            share = one.cpu_share(_CPU_SECONDS)
            assert _is_out(one)
        one.settled(before)
        return Found(share, one.log.count('"cannot accept"'), good_load(one.port, seconds))


def _is_out(one: House) -> bool:
    children = one.state().descriptors.keys() - {one.server.pid}
    return sum(descriptors_of(pid) >= DESCRIPTORS - 1 for pid in children) == WORKERS


def show() -> None:
    """For the long form."""
    with tempfile.TemporaryDirectory() as name:
        found = run_out(Path(name), _CPU_SECONDS)
    print(
        f"out of {DESCRIPTORS} descriptors: {found.cpu_share:.1%} of a core, told {found.told} times; "
        f"afterwards {found.afterwards.mails:.0f} mails a second, failures: {found.afterwards.failures or 'none'}"
    )
