"""The PROXY protocol, versions 1 and 2, receiving side, sans-IO (HAProxy's "The PROXY protocol", section 2).

A proxy in front sends one header before anything else, to say on whose behalf it connected. Read no more than
:func:`octets_missing` says: what stands behind the header belongs to somebody else, to TLS or to the mail protocol::

    header = b""
    while missing := octets_missing(header):
        header += read_at_most(missing)
    parsed = parse_header(header)
"""

from __future__ import annotations

import ipaddress
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final, assert_never, final

MAX_TEXT_OCTETS: Final = 107  # section 2.1: the longest line of version 1, CR LF included
MAX_BINARY_OCTETS: Final = 16 + 4096  # ours: the addresses take 216 octets at most, the rest is for TLVs
SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"  # section 2.2
_FIXED_OCTETS: Final = 16  # of version 2: the signature, version and command, family, length
_TEXT_MARK: Final = b"PROXY "
_SHORTEST_TEXT_OCTETS: Final = len(b"PROXY UNKNOWN\r\n")
_SSL_FIXED: Final = struct.Struct("!BI")  # flags of the client, result of the verification
_IPV4: Final = struct.Struct("!4s4sHH")
_IPV6: Final = struct.Struct("!16s16sHH")
_UNIX_OCTETS: Final = 216
_CHECKSUM_OCTETS: Final = 4
_PORT: Final = re.compile(rb"0|[1-9][0-9]{0,4}")
_CASTAGNOLI: Final = 0x82F63B78  # RFC 4960 appendix B, reflected


class PreludeError(Exception):
    """This is no header that may be believed; the text is for the log."""


@final
@dataclass(frozen=True, slots=True)
class Endpoint:
    """One end of the connection that the proxy took: an IP address as text, IPv4 mapped into IPv6 as IPv4."""

    ip: str
    port: int


class Origin(Enum):
    """Whom the header speaks for."""

    CLIENT = "a client with addresses"
    LOCAL_CLIENT = "a client on the machine of the proxy, by a unix socket"
    PROXY = "the proxy itself, or a client it knows nothing of: the real peer stays"


class Verification(Enum):
    """What came of the certificate of the client."""

    NONE = "it gave none"
    PASSED = "verified"
    FAILED = "not verified"


@final
@dataclass(frozen=True, slots=True)
class ClientTls:
    """PP2_TYPE_SSL: how the client spoke TLS to the proxy. Texts are as the proxy gave them, empty when it did not."""

    version: str = ""
    cipher: str = ""
    common_name: str = ""
    certificate: Verification = Verification.NONE


@final
@dataclass(frozen=True, slots=True)
class Header:
    """What a header says.

    Args:
        source: the client; None unless ``origin`` is CLIENT.
        destination: where it connected to; likewise.
        tls: None when the client spoke no TLS to the proxy, or the proxy does not say.
        authority: the name that the client asked for (SNI); empty when it is not told.
    """

    origin: Origin
    source: Endpoint | None = None
    destination: Endpoint | None = None
    tls: ClientTls | None = None
    authority: str = ""


class _Tlv(Enum):
    """Types of section 2.2.1 that mean something to us; all others are passed over."""

    AUTHORITY = 0x02
    CRC32C = 0x03
    SSL = 0x20


class _SslTlv(Enum):
    """Types within PP2_TYPE_SSL, likewise."""

    VERSION = 0x21
    COMMON_NAME = 0x22
    CIPHER = 0x23


class _Family(Enum):
    """Address families of version 2, the high nibble."""

    UNSPECIFIED = 0
    IPV4 = 1
    IPV6 = 2
    UNIX = 3


class _Transport(Enum):
    """Transports of version 2, the low nibble."""

    UNSPECIFIED = 0
    STREAM = 1
    DATAGRAM = 2


_VERSION: Final = 2
_LOCAL, _PROXY = range(2)
_SPOKE_TLS: Final = 0x01  # PP2_CLIENT_SSL
_GAVE_CERTIFICATE: Final = 0x02 | 0x04  # PP2_CLIENT_CERT_CONN, PP2_CLIENT_CERT_SESS
_ADDRESSES: Final = {_Family.IPV4: _IPV4, _Family.IPV6: _IPV6}


def octets_missing(header: bytes) -> int:
    """How many octets more are a part of the header for certain; 0 when it is whole.

    Raises:
        PreludeError: what was read is no beginning of a header.
    """
    if header.startswith(_TEXT_MARK):
        return _text_missing(header)
    if header.startswith(SIGNATURE):
        return _binary_missing(header)
    if _TEXT_MARK.startswith(header) or SIGNATURE.startswith(header):
        return _SHORTEST_TEXT_OCTETS - len(header)
    raise PreludeError("no PROXY header")


def parse_header(header: bytes) -> Header:
    """Read a header for which :func:`octets_missing` gives 0.

    Raises:
        PreludeError: it must not be believed.
    """
    return _parse_text(header) if header.startswith(_TEXT_MARK) else _parse_binary(header)


# Version 1


def _text_missing(header: bytes) -> int:
    end = header.find(b"\r\n")
    if end >= 0:
        return 0
    if len(header) >= MAX_TEXT_OCTETS:
        raise PreludeError("the PROXY line is too long")
    end_octets = 1 if header.endswith(b"\r") else 2
    return min(max(end_octets, _SHORTEST_TEXT_OCTETS - len(header)), MAX_TEXT_OCTETS - len(header))


def _parse_text(line: bytes) -> Header:
    match line.removesuffix(b"\r\n").split(b" "):
        case [_, b"UNKNOWN", *_]:
            return Header(Origin.PROXY)
        case [_, b"TCP4" | b"TCP6" as protocol, source, destination, source_port, destination_port]:
            family = _Family.IPV4 if protocol == b"TCP4" else _Family.IPV6
            return Header(
                Origin.CLIENT,
                _text_endpoint(family, source, source_port),
                _text_endpoint(family, destination, destination_port),
            )
        case _:
            raise PreludeError("the PROXY line is garbled")


def _text_endpoint(family: _Family, address: bytes, port: bytes) -> Endpoint:
    try:
        text = address.decode("ascii")
        parsed = ipaddress.IPv4Address(text) if family is _Family.IPV4 else ipaddress.IPv6Address(text)
    except ValueError as exc:
        raise PreludeError("the PROXY line has a bad address") from exc
    if "%" in text or _PORT.fullmatch(port) is None or int(port) > 65_535:
        raise PreludeError("the PROXY line has a bad address or port")
    return _endpoint(parsed, int(port))


def _endpoint(address: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int) -> Endpoint:
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return Endpoint(str(mapped or address), port)


# Version 2


def _binary_missing(header: bytes) -> int:
    if len(header) < _FIXED_OCTETS:
        return _FIXED_OCTETS - len(header)
    octets = _FIXED_OCTETS + int.from_bytes(header[14:_FIXED_OCTETS])
    if octets > MAX_BINARY_OCTETS:
        raise PreludeError(f"a PROXY header of {octets} octets is too long")
    return octets - len(header)


def _parse_binary(header: bytes) -> Header:
    version, command = divmod(header[12], 16)
    if version != _VERSION or command not in (_LOCAL, _PROXY):
        raise PreludeError("a PROXY header of an unknown version or command")
    if command == _LOCAL:
        return Header(Origin.PROXY)  # section 2.2: all the rest is to be thrown away unread
    try:
        family, transport = map(int, divmod(header[13], 16))
        return _parse_block(_Family(family), _Transport(transport), header)
    except ValueError as exc:
        raise PreludeError("a PROXY header of an unknown family or transport") from exc


def _parse_block(family: _Family, transport: _Transport, header: bytes) -> Header:
    block = header[_FIXED_OCTETS:]
    match family:
        case _Family.UNSPECIFIED:
            origin, addresses = Origin.PROXY, 0
        case _Family.UNIX:
            origin, addresses = Origin.LOCAL_CLIENT, _UNIX_OCTETS
        case _Family.IPV4 | _Family.IPV6:
            origin, addresses = Origin.CLIENT, _ADDRESSES[family].size
        case _:
            assert_never(family)
    if len(block) < addresses:
        raise PreludeError("a PROXY header without room for its addresses")
    found = _read_tlvs(header, _FIXED_OCTETS + addresses)
    if transport is not _Transport.STREAM or origin is Origin.PROXY:  # nothing that this connection can come from
        return replace(found, origin=Origin.PROXY)
    if origin is Origin.LOCAL_CLIENT:
        return replace(found, origin=origin)
    source, destination, source_port, destination_port = _ADDRESSES[family].unpack_from(block)
    return replace(
        found,
        origin=origin,
        source=_endpoint(ipaddress.ip_address(source), source_port),
        destination=_endpoint(ipaddress.ip_address(destination), destination_port),
    )


def _read_tlvs(header: bytes, begin: int) -> Header:
    found = Header(Origin.PROXY)
    for kind, at, value in _tlvs(header, begin):
        match kind:
            case _Tlv.AUTHORITY.value:
                found = replace(found, authority=_text(value))
            case _Tlv.CRC32C.value:
                _verify_checksum(header, at, value)
            case _Tlv.SSL.value:
                found = replace(found, tls=_parse_ssl(value))
            case _:
                pass
    return found


def _tlvs(data: bytes, at: int) -> Iterator[tuple[int, int, bytes]]:
    """The type of each, the offset of its value, and the value."""
    while at < len(data):
        end = at + 3 + int.from_bytes(data[at + 1 : at + 3])
        if at + 3 > len(data) or end > len(data):
            raise PreludeError("a PROXY header with a TLV that is cut")
        yield data[at], at + 3, data[at + 3 : end]
        at = end


def _parse_ssl(value: bytes) -> ClientTls | None:
    if len(value) < _SSL_FIXED.size:
        raise PreludeError("a PROXY header with a TLV of TLS that is cut")
    flags, verification = _SSL_FIXED.unpack_from(value)
    tls = ClientTls()
    for kind, _, inner in _tlvs(value, _SSL_FIXED.size):
        match kind:
            case _SslTlv.VERSION.value:
                tls = replace(tls, version=_text(inner))
            case _SslTlv.COMMON_NAME.value:
                tls = replace(tls, common_name=_text(inner))
            case _SslTlv.CIPHER.value:
                tls = replace(tls, cipher=_text(inner))
            case _:
                pass
    if flags & _GAVE_CERTIFICATE:
        tls = replace(tls, certificate=Verification.FAILED if verification else Verification.PASSED)
    return tls if flags & _SPOKE_TLS else None


def _text(value: bytes) -> str:
    return value.decode(errors="backslashreplace")


def _verify_checksum(header: bytes, at: int, value: bytes) -> None:
    """Section 2.2.3: over the whole header, the checksum itself taken for zeros."""
    blank = header[:at] + bytes(_CHECKSUM_OCTETS) + header[at + _CHECKSUM_OCTETS :]
    if len(value) != _CHECKSUM_OCTETS or crc32c(blank) != int.from_bytes(value):
        raise PreludeError("a PROXY header with a wrong checksum")


def _crc_of(octet: int) -> int:
    for _ in range(8):
        octet = octet >> 1 ^ (_CASTAGNOLI if octet & 1 else 0)
    return octet


_CRC_TABLE: Final = tuple(map(_crc_of, range(256)))


def crc32c(data: bytes) -> int:
    """The CRC-32C of octets (RFC 4960 appendix B)."""
    crc = 0xFFFFFFFF
    for octet in data:
        crc = crc >> 8 ^ _CRC_TABLE[(crc ^ octet) & 0xFF]
    return crc ^ 0xFFFFFFFF
