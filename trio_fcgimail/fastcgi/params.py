"""Name-value pairs (FastCGI 1.0, 3.4) and the PARAMS stream that carries them (5.2)."""

import struct
from collections.abc import Iterable, Sequence
from typing import Final

from trio_fcgimail.fastcgi.errors import LocalProtocolError, RemoteProtocolError
from trio_fcgimail.fastcgi.records import MAX_CONTENT_OCTETS, MAX_RECORD_CONTENT, RecordType, encode_record

NameValue = tuple[bytes, bytes]

_SHORT_LIMIT: Final = 0x80  # FastCGI 1.0, 3.4: lengths below this take one octet
_LONG_FLAG: Final = 0x80000000  # FastCGI 1.0, 3.4: the top bit marks a length of four octets
_LONG: Final = struct.Struct(">I")


def _encode_length(length: int) -> bytes:
    if length < _SHORT_LIMIT:
        return bytes((length,))
    if length >= _LONG_FLAG:
        raise LocalProtocolError(f"a name or value of {length} octets cannot be expressed")
    return _LONG.pack(_LONG_FLAG | length)


def _encode_pair(name: bytes, value: bytes) -> bytes:
    return b"".join((_encode_length(len(name)), _encode_length(len(value)), name, value))


def encode_pairs(pairs: Iterable[NameValue]) -> bytes:
    """Encode name-value pairs (FastCGI 1.0, 3.4).

    Raises:
        LocalProtocolError: a name or value of 2 GiB or more.
    """
    return b"".join(_encode_pair(name, value) for name, value in pairs)


def _decode_length(data: bytes, at: int) -> tuple[int, int]:
    """Return a length and where it ends. The long form of a short length is legal (FastCGI 1.0, 3.4)."""
    if at >= len(data):
        raise RemoteProtocolError("name-value pair cut within its lengths")
    if data[at] < _SHORT_LIMIT:
        return data[at], at + 1
    end = at + _LONG.size
    if end > len(data):
        raise RemoteProtocolError("name-value pair cut within its lengths")
    (flagged,) = _LONG.unpack_from(data, at)
    length: int = flagged ^ _LONG_FLAG
    return length, end


def decode_pairs(data: bytes) -> tuple[NameValue, ...]:
    """Decode name-value pairs (FastCGI 1.0, 3.4). Empty and repeated names are handed on as they came.

    Args:
        data: all the pairs; for PARAMS, the contents of all records put together.

    Raises:
        RemoteProtocolError: the data ends within a pair.
    """
    pairs: list[NameValue] = []
    at = 0
    while at < len(data):
        name_length, at = _decode_length(data, at)
        value_length, at = _decode_length(data, at)
        value_start = at + name_length
        end = value_start + value_length
        if end > len(data):
            raise RemoteProtocolError("name-value pair cut within its name or value")
        pairs.append((data[at:value_start], data[value_start:end]))
        at = end
    return tuple(pairs)


def encode_params(request_id: int, params: Sequence[NameValue]) -> bytes:
    """Encode a whole PARAMS stream, its empty record included (FastCGI 1.0, 5.2).

    No pair is spread over two records: php-fpm reads each record on its own, and drops the connection without a word
    when a pair goes on in the next. Hence a pair must fit one record.

    Raises:
        LocalProtocolError: an empty name, a name used twice, a NUL (PHP cuts values there), or a pair of more than
            65535 octets when encoded.
    """
    seen: set[bytes] = set()
    records: list[bytes] = []
    batch: list[bytes] = []
    batch_octets = 0
    for name, value in params:
        _check_param(name, value, seen)
        pair = _encode_pair(name, value)
        if len(pair) > MAX_CONTENT_OCTETS:
            raise LocalProtocolError(
                f"parameter {name[:64]!r} takes {len(pair)} octets, one record holds {MAX_CONTENT_OCTETS}"
            )
        if batch and batch_octets + len(pair) > MAX_RECORD_CONTENT:
            records.append(encode_record(RecordType.PARAMS, request_id, b"".join(batch)))
            batch, batch_octets = [], 0
        batch.append(pair)
        batch_octets += len(pair)
    if batch:
        records.append(encode_record(RecordType.PARAMS, request_id, b"".join(batch)))
    records.append(encode_record(RecordType.PARAMS, request_id))
    return b"".join(records)


def _check_param(name: bytes, value: bytes, seen: set[bytes]) -> None:
    if not name:
        raise LocalProtocolError("a parameter needs a name")
    if b"\0" in name or b"\0" in value:
        raise LocalProtocolError(f"parameter {name[:64]!r} contains NUL")
    if name in seen:
        raise LocalProtocolError(f"parameter {name[:64]!r} is given twice")
    seen.add(name)
