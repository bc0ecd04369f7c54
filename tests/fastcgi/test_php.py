"""Our client against a real php-fpm and against our own responder: both read what was written, under any cut.

What PHP cannot hold is left out, and nothing else: names of variables that are none, and NUL (which the client refuses
as well). PHP takes a request apart on its own terms, so whatever both ends of ours had wrong in common shows here.
"""

from __future__ import annotations

import base64
import json
import socket
import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz.targets.fastcgi_pair import cut
from tests.phpfpm import PhpFpm, php_fpm
from trio_fcgimail.fastcgi import (
    Answer,
    ClientConnection,
    NameValue,
    ProtocolStatus,
    RequestBegun,
    ResponderConnection,
    Signal,
    StdinChunk,
    StdinEnded,
    read_response,
)

SECONDS: Final = 20.0
NAMES: Final = st.text(string.ascii_uppercase + string.digits + "_", max_size=40).map(lambda name: f"X{name}".encode())
VALUES: Final = st.one_of(
    st.binary(max_size=40),
    st.sampled_from([127, 128, 129, 255, 256, 4096, 20_000, 65_000]).map(lambda octets: b"=&%\xff" * (octets // 4)),
).map(lambda value: value.replace(b"\0", b"\1"))
BODIES: Final = st.one_of(
    st.binary(max_size=300),
    st.tuples(st.binary(min_size=1, max_size=64), st.sampled_from([1, 255, 1024, 4096])).map(lambda it: it[0] * it[1]),
)
SIZES: Final = st.lists(st.sampled_from([1, 7, 8, 9, 500, 65_535]), max_size=20)  # of the first pieces
_REST: Final = 100_000  # of all that follow
#: A line of what came, then the body as it is.
ECHO: Final = """<?php
$ours = array_filter($_SERVER, fn ($name) => str_starts_with($name, 'X'), ARRAY_FILTER_USE_KEY);
header('Content-Type: application/octet-stream');
error_log('noted');
echo json_encode((object) array_map('base64_encode', $ours)), "\\n";
readfile('php://input');
"""


@dataclass(frozen=True, slots=True)
class Asked:
    """One request: variables of its own, and a body."""

    variables: dict[bytes, bytes]
    body: bytes
    at_once: bool

    def params(self, script: str) -> Sequence[NameValue]:
        """What it takes for PHP, and the variables."""
        return (
            (b"SCRIPT_FILENAME", script.encode()),
            (b"REQUEST_METHOD", b"POST"),
            (b"CONTENT_TYPE", b"application/octet-stream"),
            (b"CONTENT_LENGTH", b"%d" % len(self.body)),
            *self.variables.items(),
        )


ASKED: Final = st.builds(Asked, st.dictionaries(NAMES, VALUES, max_size=6), BODIES, st.booleans())


@pytest.fixture(scope="module")
def php() -> Iterator[PhpFpm]:
    yield from php_fpm()


def written(client: ClientConnection, asked: Asked, script: str, *, keep: bool) -> bytes:
    """The request, by either way of writing it."""
    params = asked.params(script)
    if asked.at_once:
        return client.request(params=params, body=asked.body, keep_connection=keep)
    pieces = [client.begin_request(params=params, keep_connection=keep)]
    pieces += [client.send_stdin(1, piece) for piece in cut(asked.body, [900, 70_000])]
    return b"".join([*pieces, client.end_stdin(1)])


def heard_by_responder(wire: bytes, sizes: Sequence[int]) -> tuple[tuple[NameValue, ...], bytes]:
    """What our responder makes of it."""
    connection = ResponderConnection()
    params: tuple[NameValue, ...] = ()
    body = bytearray()
    for piece in cut(wire, [*sizes, *[_REST] * 9]):
        connection.receive_data(piece)
        while not isinstance(event := connection.next_event(), Signal):
            match event:
                case RequestBegun():
                    params = event.params
                case StdinChunk(data=data):
                    body += data
                case StdinEnded():
                    return params, bytes(body)
                case _:
                    raise AssertionError(f"nobody wrote {event}")
    raise AssertionError("the request has no end")


def answered(conn: socket.socket, client: ClientConnection, sizes: Sequence[int]) -> Answer:
    """Read in pieces until the whole answer is there."""
    for size in chain(sizes, repeat(_REST)):
        data = conn.recv(size)
        assert data, "php-fpm has closed"
        client.receive_data(data)
        if (answer := client.next_answer()) is not None:
            return answer
    raise AssertionError("there is always another size")


@settings(deadline=None, max_examples=60)
@given(asked=st.lists(ASKED, min_size=1, max_size=3), sending=SIZES, receiving=SIZES)
def test_php_and_our_responder_read_what_our_client_wrote(
    php: PhpFpm, asked: list[Asked], sending: list[int], receiving: list[int]
) -> None:
    script = php.script("echo.php", ECHO)
    client = ClientConnection()
    with socket.socket(socket.AF_UNIX) as conn:
        conn.settimeout(SECONDS)
        conn.connect(str(php.socket_path))
        for number, one in enumerate(asked, start=1):
            keep = number < len(asked)
            wire = written(client, one, script, keep=keep)
            assert heard_by_responder(wire, sending) == (tuple(one.params(script)), one.body)
            for piece in cut(wire, [*sending, *[_REST] * 9]):
                conn.sendall(piece)
            answer = answered(conn, client, receiving)
            assert answer.protocol_status is ProtocolStatus.REQUEST_COMPLETE
            assert b"noted" in answer.stderr
            head, output = read_response(answer.stdout)
            variables, _, body = output.partition(b"\n")
            decoded = {name.encode(): base64.b64decode(value) for name, value in json.loads(variables).items()}
            assert (head.status, decoded, body) == (200, one.variables, one.body)
            assert client.is_reusable is keep
