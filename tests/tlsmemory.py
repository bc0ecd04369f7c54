"""Handshakes of TLS between two ends in memory."""

import ssl
from collections.abc import Callable
from contextlib import suppress


def handshake(
    server: ssl.SSLContext, client: ssl.SSLContext, name: str | None = "mx.example.com"
) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """Give the client's end and ours after a handshake and one octet, after which neither can have any objection."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = server.wrap_bio(to_server, to_client, server_side=True)
    theirs = client.wrap_bio(to_client, to_server, server_hostname=name)
    for step in (theirs.do_handshake, ours.do_handshake) * 4:
        _try(step)
    ours.write(b"2")
    assert theirs.read(1) == b"2"
    return theirs, ours


def _try(step: Callable[[], None]) -> None:
    with suppress(ssl.SSLWantReadError):
        step()
