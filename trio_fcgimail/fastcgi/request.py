"""The octets of a request, header by header in as few steps as it takes. Knows no state."""

import struct
from collections.abc import Sequence
from typing import Final

from trio_fcgimail.fastcgi.records import KEEP_CONN, MAX_RECORD_CONTENT, VERSION, RecordType, Role, encode_stream

_HEADER_FORM: Final = "BBHHBx"  # FastCGI 1.0, 3.3
_BEGIN_FORM: Final = "HB5x"  # FastCGI 1.0, 5.1
_BEGIN_OCTETS: Final = struct.calcsize(">" + _BEGIN_FORM)

# Runs of headers that always stand together.
_BEGIN: Final = struct.Struct(">" + _HEADER_FORM + _BEGIN_FORM)
_HEADER: Final = struct.Struct(">" + _HEADER_FORM)
_TWO_HEADERS: Final = struct.Struct(">" + _HEADER_FORM * 2)

_BEGIN_REQUEST: Final = RecordType.BEGIN_REQUEST.value
_PARAMS: Final = RecordType.PARAMS.value
_STDIN: Final = RecordType.STDIN.value
_RESPONDER: Final = Role.RESPONDER.value


def encode_head(request_id: int, role: int, keep_connection: bool, params: Sequence[bytes]) -> bytes:
    """Encode BEGIN_REQUEST and a PARAMS stream whose records are to hold `params`."""
    parts = _head(request_id, role, keep_connection, params)
    parts.append(_HEADER.pack(VERSION, _PARAMS, request_id, 0, 0))
    return b"".join(parts)


def encode_request(request_id: int, keep_connection: bool, params: Sequence[bytes], body: bytes) -> bytes:
    """Encode a whole request to a responder, all its streams ended."""
    parts = _head(request_id, _RESPONDER, keep_connection, params)
    if len(body) > MAX_RECORD_CONTENT:
        parts += (
            _HEADER.pack(VERSION, _PARAMS, request_id, 0, 0),
            encode_stream(RecordType.STDIN, request_id, body),
            _HEADER.pack(VERSION, _STDIN, request_id, 0, 0),
        )
    elif body:
        parts += (
            _TWO_HEADERS.pack(VERSION, _PARAMS, request_id, 0, 0, VERSION, _STDIN, request_id, len(body), 0),
            body,
            _HEADER.pack(VERSION, _STDIN, request_id, 0, 0),
        )
    else:
        parts.append(_TWO_HEADERS.pack(VERSION, _PARAMS, request_id, 0, 0, VERSION, _STDIN, request_id, 0, 0))
    return b"".join(parts)


def _head(request_id: int, role: int, keep_connection: bool, params: Sequence[bytes]) -> list[bytes]:
    flags = KEEP_CONN if keep_connection else 0
    parts = [_BEGIN.pack(VERSION, _BEGIN_REQUEST, request_id, _BEGIN_OCTETS, 0, role, flags)]
    for content in params:
        parts += (_HEADER.pack(VERSION, _PARAMS, request_id, len(content), 0), content)
    return parts
