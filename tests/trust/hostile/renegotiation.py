"""Renegotiation of TLS 1.2, by the one client that can: ``openssl s_client`` renegotiates at a line ``R``."""

from __future__ import annotations

import shutil
import subprocess
from typing import Final

import trio

from tests.trust.hostile.field import ATTACKER, HOST, Opponent

#: Stand for replies: the server refused, or it did what was wanted.
REFUSED: Final = "not renegotiated"
DONE: Final = "renegotiated"
OPENSSL: Final = "openssl"
_SECONDS: Final = 30.0


async def renegotiate(opponent: Opponent) -> None:
    """Encrypt, and ask for another handshake."""
    program = shutil.which(OPENSSL)
    assert program is not None, f"{OPENSSL} is needed"
    connect = f"-starttls smtp -tls1_2 -connect {HOST}:{opponent.port} -bind {ATTACKER}".split()
    with trio.fail_after(_SECONDS):
        done = await trio.run_process(
            [program, "s_client", *connect],
            stdin=b"R\nNOOP\n",
            capture_stdout=True,
            stderr=subprocess.STDOUT,
            check=False,
        )
    output = done.stdout
    if b"RENEGOTIATING" in output:
        refused = b"no renegotiation" in output or b"handshake failure" in output
        opponent.tally.replies[REFUSED if refused else DONE] += 1
