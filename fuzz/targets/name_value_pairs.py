"""Name-value pairs, alone and as a PARAMS stream whose records cut them anywhere.

Input: four octets of record sizes, then the pairs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from trio_fcgimail.fastcgi import (
    NEED_DATA,
    LocalProtocolError,
    NameValue,
    Record,
    RecordReader,
    RecordType,
    RemoteProtocolError,
    RequestBegun,
    ResponderConnection,
    decode_pairs,
    encode_pairs,
    encode_params,
    encode_record,
)

_BEGIN = encode_record(RecordType.BEGIN_REQUEST, 1, b"\0\1\0\0\0\0\0\0")


def cut(wire: bytes, sizes: Sequence[int]) -> Iterator[bytes]:
    """Cut octets into pieces of the sizes given, over and over; 0 counts as 256."""
    at = turn = 0
    while at < len(wire):
        size = sizes[turn % len(sizes)] or 256
        yield wire[at : at + size]
        at, turn = at + size, turn + 1


def decoded(data: bytes) -> tuple[NameValue, ...] | None:
    """The pairs, or None when they are cut."""
    try:
        return decode_pairs(data)
    except RemoteProtocolError:
        return None


def begun(content: bytes, sizes: Sequence[int]) -> tuple[NameValue, ...] | None:
    """What a responder makes of the same octets, spread over many records."""
    conn = ResponderConnection()
    conn.receive_data(_BEGIN)
    for piece in cut(content, sizes):
        conn.receive_data(encode_record(RecordType.PARAMS, 1, piece))
        assert conn.next_event() is NEED_DATA
    conn.receive_data(encode_record(RecordType.PARAMS, 1))
    try:
        event = conn.next_event()
    except RemoteProtocolError:
        return None
    assert isinstance(event, RequestBegun)
    return event.params


def assert_records_keep_pairs_whole(pairs: tuple[NameValue, ...]) -> None:
    """What a client may send comes out again, and each record can be read on its own."""
    try:
        wire = encode_params(1, pairs)
    except LocalProtocolError:
        assert len(dict(pairs)) < len(pairs) or any(not name or b"\0" in name + value for name, value in pairs)
        return
    reader = RecordReader(len(wire) + 65_798)
    reader.receive_data(wire)
    found: list[NameValue] = []
    while isinstance(record := reader.next_record(), Record):
        found.extend(decode_pairs(record.content))
    assert tuple(found) == pairs


def check(data: bytes) -> None:
    """One input; raises on a breach.

    Invariants:
        - Nothing but RemoteProtocolError is raised by the decoder.
        - What was decoded encodes to no more octets, and decodes to the same again.
        - A responder reads the same, however the records of the PARAMS stream cut it.
        - As PARAMS of a client, no pair straddles two records; refused are only empty and repeated names, and NUL.
    """
    sizes, content = data[:4] or b"\1", data[4:65_000]
    pairs = decoded(content)
    assert begun(content, sizes) == pairs, "the way of cutting shows"
    if pairs is None:
        return
    encoded = encode_pairs(pairs)
    assert len(encoded) <= len(content)
    assert decode_pairs(encoded) == pairs
    assert_records_keep_pairs_whole(pairs)
