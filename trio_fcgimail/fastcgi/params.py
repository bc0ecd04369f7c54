"""Name-value pairs (FastCGI 1.0, 3.4) and the PARAMS stream that carries them (5.2)."""

import struct
from collections.abc import Iterable, Sequence
from typing import Final, final

from trio_fcgimail.fastcgi.errors import LocalProtocolError, RemoteProtocolError
from trio_fcgimail.fastcgi.records import MAX_CONTENT_OCTETS, MAX_RECORD_CONTENT, RecordType, encode_record

NameValue = tuple[bytes, bytes]

_SHORT_LIMIT: Final = 0x80  # FastCGI 1.0, 3.4: lengths below this take one octet
_LONG_FLAG: Final = 0x80000000  # FastCGI 1.0, 3.4: the top bit marks a length of four octets
_LONG: Final = struct.Struct(">I")
_SHORT_LENGTHS: Final = tuple(bytes((length,)) for length in range(_SHORT_LIMIT))


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
    parts: list[bytes] = []
    for name, value in pairs:
        if len(name) < _SHORT_LIMIT and len(value) < _SHORT_LIMIT:
            parts += (_SHORT_LENGTHS[len(name)], _SHORT_LENGTHS[len(value)], name, value)
        else:
            parts.append(_encode_pair(name, value))
    return b"".join(parts)


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


def _spread(params: Sequence[NameValue]) -> Sequence[bytes]:
    """Spread params over as many records as they need."""
    contents: list[bytes] = []
    batch: list[bytes] = []
    batch_octets = 0
    for name, value in params:
        pair = _encode_pair(name, value)
        if len(pair) > MAX_CONTENT_OCTETS:
            raise LocalProtocolError(
                f"parameter {name[:64]!r} takes {len(pair)} octets, one record holds {MAX_CONTENT_OCTETS}"
            )
        if batch and batch_octets + len(pair) > MAX_RECORD_CONTENT:
            contents.append(b"".join(batch))
            batch, batch_octets = [], 0
        batch.append(pair)
        batch_octets += len(pair)
    contents.append(b"".join(batch))
    return contents


def _check_params(params: Sequence[NameValue]) -> None:
    seen: set[bytes] = set()
    for name, value in params:
        if not name:
            raise LocalProtocolError("a parameter needs a name")
        if b"\0" in name or b"\0" in value:
            raise LocalProtocolError(f"parameter {name[:64]!r} contains NUL")
        if name in seen:
            raise LocalProtocolError(f"parameter {name[:64]!r} is given twice")
        seen.add(name)


@final
class ConstantParams:
    """Params that go with many requests, checked and encoded once.

    Args:
        params: each name once, none empty, no NUL, a pair of at most 65535 octets when encoded.

    Attributes:
        params: as given.
        names: of them.
        octets: them all, encoded one behind the other.

    Raises:
        LocalProtocolError: the params break these rules.
    """

    __slots__ = ("names", "octets", "params")

    def __init__(self, params: Sequence[NameValue] = ()) -> None:
        _check_params(params)
        self.params: Final = tuple(params)
        self.names: Final = frozenset(name for name, _ in params)
        self.octets: Final = b"".join(_spread(params))


NO_PARAMS: Final = ConstantParams()


def encode_params(request_id: int, params: Sequence[NameValue], constant: ConstantParams = NO_PARAMS) -> bytes:
    """Encode a whole PARAMS stream, its empty record included (FastCGI 1.0, 5.2).

    No pair is spread over two records: php-fpm reads each record on its own, and drops the connection without a word
    when a pair goes on in the next. Hence a pair must fit one record.

    Args:
        request_id: 1 to 65535.
        params: of this request.
        constant: what goes before them.

    Raises:
        LocalProtocolError: an empty name, a name used twice, a NUL (PHP cuts values there), or a pair of more than
            65535 octets when encoded.
    """
    records = [encode_record(RecordType.PARAMS, request_id, content) for content in params_contents(params, constant)]
    return b"".join((*records, encode_record(RecordType.PARAMS, request_id)))


def params_contents(params: Sequence[NameValue], constant: ConstantParams = NO_PARAMS) -> Sequence[bytes]:
    """Encode a PARAMS stream as `encode_params()` does; returns the contents of its records without the empty one."""
    values = dict(params)
    if (
        len(values) != len(params)
        or b"" in values
        or not constant.names.isdisjoint(values)
        or b"\0" in b"".join(values)
        or b"\0" in b"".join(values.values())
    ):
        _check_params((*constant.params, *params))
    octets = constant.octets + encode_pairs(params)
    if len(octets) <= MAX_RECORD_CONTENT:
        return (octets,) if octets else ()
    return _spread((*constant.params, *params))
