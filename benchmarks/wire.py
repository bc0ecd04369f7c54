"""The least of FastCGI that a client needs, for the programs that ours is compared with.

It owes nothing to ``trio_fcgimail.fastcgi``, checks nothing, and is as fast as plain Python allows: whole requests and
whole responses, no events (FastCGI 1.0, 3.3 and 3.4).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Final

CONTENT_OCTETS: Final = 65_528  # of a record: a multiple of 8 below the greatest that there is
_BEGIN: Final = struct.pack(">BBHHBxHB5x", 1, 1, 1, 8, 0, 1, 1)  # a responder, and the connection is kept
_END_PARAMS: Final = struct.pack(">BBHHBx", 1, 4, 1, 0, 0)
_END_STDIN: Final = struct.pack(">BBHHBx", 1, 5, 1, 0, 0)
_HEADER: Final = struct.Struct(">BBHHBx")
_END_REQUEST, _STDOUT = 3, 6
# What urldecode() of PHP needs escaped within a value: with these four gone, every other octet stands for itself.
_ESCAPES: Final = ((b"%", b"%25"), (b"+", b"%2B"), (b"&", b"%26"), (b";", b"%3B"))


def form_value(data: bytes) -> bytes:
    """Encode a value of a form: only what PHP would read otherwise, in C."""
    for octet, escape in _ESCAPES:
        data = data.replace(octet, escape)
    return data.replace(b" ", b"+")


def _pairs(params: Mapping[bytes, bytes]) -> bytes:
    parts = []
    for name, value in params.items():
        size = len(value)
        parts += [
            bytes((len(name), size)) if size < 128 else struct.pack(">BI", len(name), size | 1 << 31),
            name,
            value,
        ]
    return b"".join(parts)


def request(params: Mapping[bytes, bytes], body: bytes = b"") -> bytes:
    """Make a whole request that keeps its connection; names below 128 octets, all parameters in one record."""
    pairs = _pairs(params)
    parts = [_BEGIN, _HEADER.pack(1, 4, 1, len(pairs), 0), pairs, _END_PARAMS]
    for at in range(0, len(body), CONTENT_OCTETS):
        piece = body[at : at + CONTENT_OCTETS]
        parts += [_HEADER.pack(1, 5, 1, len(piece), 0), piece]
    parts.append(_END_STDIN)
    return b"".join(parts)


def get(script: str, query: bytes) -> bytes:
    """Make a GET."""
    return request(_cgi(script) | {b"REQUEST_METHOD": b"GET", b"QUERY_STRING": query})


def post(script: str, form: bytes) -> bytes:
    """Make a POST of a form."""
    return request(
        _cgi(script)
        | {
            b"REQUEST_METHOD": b"POST",
            b"CONTENT_TYPE": b"application/x-www-form-urlencoded",
            b"CONTENT_LENGTH": b"%d" % len(form),
        },
        form,
    )


def _cgi(script: str) -> dict[bytes, bytes]:
    return {
        b"SCRIPT_FILENAME": script.encode(),
        b"SERVER_PROTOCOL": b"HTTP/1.1",
        b"GATEWAY_INTERFACE": b"CGI/1.1",
        b"REMOTE_ADDR": b"127.0.0.1",
    }


def answer(received: bytes) -> bytes | None:
    """What the script printed, once its END_REQUEST is there; None until then.

    Raises:
        ValueError: this is no FastCGI.
    """
    output, at = [], 0
    while len(received) >= at + 8:
        version, kind, _, size, padding = _HEADER.unpack_from(received, at)
        if version != 1:
            raise ValueError("not FastCGI")
        end = at + 8 + size
        if end + padding > len(received):
            return None
        if kind == _STDOUT:
            output.append(received[at + 8 : end])
        elif kind == _END_REQUEST:
            return b"".join(output).partition(b"\r\n\r\n")[2].strip()
        at = end + padding
    return None
