"""The header of the PROXY protocol: octets on the left, what is believed on the right."""

import struct
from typing import Final

import pytest

from trio_fcgimail.server.prelude import (
    MAX_BINARY_OCTETS,
    MAX_TEXT_OCTETS,
    SIGNATURE,
    ClientTls,
    Endpoint,
    Header,
    Origin,
    PreludeError,
    Verification,
    crc32c,
    octets_missing,
    parse_header,
)

SOURCE: Final = Endpoint("192.0.2.1", 56324)
DESTINATION: Final = Endpoint("192.0.2.2", 25)
CLIENT: Final = Header(Origin.CLIENT, SOURCE, DESTINATION)
NOBODY: Final = Header(Origin.PROXY)
IPV4: Final = b"\xc0\0\2\1\xc0\0\2\2\xdc\4\0\x19"
IPV6: Final = bytes.fromhex("20010db8000000000000000000000001") + bytes(15) + b"\1\xdc\4\0\x19"
MAPPED: Final = bytes(10) + b"\xff\xff\xc0\0\2\1" + bytes(10) + b"\xff\xff\xc0\0\2\2\xdc\4\0\x19"
UNIX: Final = b"/run/mail".ljust(108, b"\0") * 2


def binary(block: bytes, command: int = 0x21, family: int = 0x11) -> bytes:
    """A header of version 2."""
    return SIGNATURE + bytes([command, family]) + len(block).to_bytes(2) + block


def tlv(kind: int, value: bytes) -> bytes:
    """Type, length, value."""
    return bytes([kind]) + len(value).to_bytes(2) + value


def ssl(flags: int, verification: int = 0, *inner: bytes) -> bytes:
    """PP2_TYPE_SSL."""
    return tlv(0x20, struct.pack("!BI", flags, verification) + b"".join(inner))


def with_checksum(block: bytes) -> bytes:
    """A header that ends in its right checksum."""
    header = binary(block + tlv(0x03, bytes(4)))
    return header[:-4] + crc32c(header).to_bytes(4)


def read(wire: bytes, step: int = MAX_BINARY_OCTETS) -> tuple[Header, bytes]:
    """The header at the beginning of what comes in such steps, and what is left behind it."""
    at = 0
    while missing := octets_missing(wire[:at]):
        assert at < len(wire), "more is asked for than a header has"
        at = min(at + min(missing, step), len(wire))
    return parse_header(wire[:at]), wire[at:]


TAKEN = [
    pytest.param(b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 25\r\n", CLIENT, id="tcp4"),
    pytest.param(
        b"PROXY TCP6 2001:DB8:0::1 ::1 0 65535\r\n",
        Header(Origin.CLIENT, Endpoint("2001:db8::1", 0), Endpoint("::1", 65535)),
        id="tcp6",
    ),
    pytest.param(b"PROXY TCP6 ::ffff:192.0.2.1 ::ffff:c000:202 56324 25\r\n", CLIENT, id="tcp6-mapped"),
    pytest.param(b"PROXY UNKNOWN\r\n", NOBODY, id="unknown"),
    pytest.param(b"PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n", NOBODY, id="unknown-with-more"),
    pytest.param(b"PROXY UNKNOWN " + b"x" * 91 + b"\r\n", NOBODY, id="unknown-of-107"),
    pytest.param(binary(IPV4), CLIENT, id="2-tcp4"),
    pytest.param(
        binary(IPV6, family=0x21),
        Header(Origin.CLIENT, Endpoint("2001:db8::1", 56324), Endpoint("::1", 25)),
        id="2-tcp6",
    ),
    pytest.param(binary(MAPPED, family=0x21), CLIENT, id="2-tcp6-mapped"),
    pytest.param(binary(UNIX, family=0x31), Header(Origin.LOCAL_CLIENT), id="2-unix"),
    pytest.param(binary(IPV4, family=0x12), NOBODY, id="2-udp"),
    pytest.param(binary(UNIX, family=0x32), NOBODY, id="2-unix-datagram"),
    pytest.param(binary(b"", family=0x00), NOBODY, id="2-unspecified"),
    pytest.param(binary(b"", command=0x20, family=0x00), NOBODY, id="2-local"),
    pytest.param(binary(b"\2\xff\xff", command=0x20), NOBODY, id="2-local-with-garbage"),
    pytest.param(
        binary(IPV4 + tlv(0x02, b"mx.example.com")),
        Header(Origin.CLIENT, SOURCE, DESTINATION, authority="mx.example.com"),
        id="authority",
    ),
    pytest.param(binary(IPV4 + tlv(0x04, b"") + tlv(0xEA, b"x" * 999)), CLIENT, id="tlvs-unknown-to-us"),
    pytest.param(
        binary(IPV4 + ssl(1, 1, tlv(0x21, b"TLSv1.3"), tlv(0x23, b"TLS_AES_128_GCM_SHA256"), tlv(0x25, b"RSA2048"))),
        Header(Origin.CLIENT, SOURCE, DESTINATION, tls=ClientTls("TLSv1.3", "TLS_AES_128_GCM_SHA256")),
        id="tls",
    ),
    pytest.param(
        binary(IPV4 + ssl(7, 0, tlv(0x22, b"a\xff"))),
        Header(Origin.CLIENT, SOURCE, DESTINATION, ClientTls("", "", "a\\xff", Verification.PASSED)),
        id="tls-certificate",
    ),
    pytest.param(
        binary(IPV4 + ssl(5, 18)),
        Header(Origin.CLIENT, SOURCE, DESTINATION, ClientTls(certificate=Verification.FAILED)),
        id="tls-bad-certificate",
    ),
    pytest.param(binary(IPV4 + ssl(0)), CLIENT, id="no-tls"),
    pytest.param(with_checksum(IPV4 + tlv(0x04, b"\0\0")), CLIENT, id="checksum"),
    pytest.param(binary(IPV4 + tlv(0x04, bytes(MAX_BINARY_OCTETS - 16 - 12 - 3))), CLIENT, id="2-of-the-most-octets"),
]


@pytest.mark.parametrize("step", [1, 7, MAX_BINARY_OCTETS])
@pytest.mark.parametrize(("wire", "header"), TAKEN)
def test_taken_and_nothing_behind_it_is_read(wire: bytes, header: Header, step: int) -> None:
    assert read(wire, step) == (header, b"")
    assert read(wire + b"\r\nEHLO client.example\r\n", step) == (header, b"\r\nEHLO client.example\r\n")


REFUSED = [
    pytest.param(b"EHLO client.example\r\n", id="mail"),
    pytest.param(b"proxy TCP4 192.0.2.1 192.0.2.2 1 2\r\n", id="lower-case"),
    pytest.param(b"PROXY\r\n" + bytes(20), id="nothing-but-the-word"),
    pytest.param(b"PROXY \r\nUNKNOWN\r\n", id="early-end"),
    pytest.param(b"PROXY  TCP4 192.0.2.1 192.0.2.2 1 2\r\n", id="two-blanks"),
    pytest.param(b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2 \r\n", id="blank-at-the-end"),
    pytest.param(b"PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n", id="a-port-too-few"),
    pytest.param(b"PROXY UDP4 192.0.2.1 192.0.2.2 1 2\r\n", id="udp"),
    pytest.param(b"PROXY TCP4 2001:db8::1 ::1 1 2\r\n", id="wrong-family"),
    pytest.param(b"PROXY TCP6 192.0.2.1 192.0.2.2 1 2\r\n", id="wrong-family-6"),
    pytest.param(b"PROXY TCP4 192.0.2.256 192.0.2.2 1 2\r\n", id="no-address"),
    pytest.param(b"PROXY TCP4 192.0.2.01 192.0.2.2 1 2\r\n", id="leading-zero"),
    pytest.param(b"PROXY TCP6 fe80::1%1 ::1 1 2\r\n", id="zone"),
    pytest.param(b"PROXY TCP4 192.0.2.1 192.0.2.2 65536 2\r\n", id="port-too-high"),
    pytest.param(b"PROXY TCP4 192.0.2.1 192.0.2.2 01 2\r\n", id="port-with-zero"),
    pytest.param(b"PROXY TCP4 192.0.2.1 192.0.2.2 -1 2\r\n", id="port-negative"),
    pytest.param(b"PROXY TCP4 192.0.2.1 192.0.2.2 \xd9\xa1 2\r\n", id="port-in-other-digits"),
    pytest.param(b"PROXY UNKNOWN " + b"x" * 92 + b"\r\n", id="108-octets"),
    pytest.param(b"PROXY TCP4 " + b"1" * 500, id="endless"),
    pytest.param(SIGNATURE[:-1] + b"!" + bytes(16), id="signature"),
    pytest.param(binary(IPV4, command=0x11), id="2-version-1"),
    pytest.param(binary(IPV4, command=0x22), id="2-command"),
    pytest.param(binary(IPV4, family=0x41), id="2-family"),
    pytest.param(binary(IPV4, family=0x13), id="2-transport"),
    pytest.param(binary(IPV4[:-1]), id="2-no-room"),
    pytest.param(binary(UNIX[:-1], family=0x31), id="2-unix-no-room"),
    pytest.param(binary(IPV4 + b"\2\0"), id="tlv-cut"),
    pytest.param(binary(IPV4 + b"\2\0\2x"), id="tlv-value-cut"),
    pytest.param(binary(IPV4 + tlv(0x20, bytes(4))), id="tls-cut"),
    pytest.param(binary(IPV4 + ssl(1, 0, b"\x21\0\7TLS")), id="tls-version-cut"),
    pytest.param(binary(IPV4 + tlv(0x03, bytes(4))), id="checksum"),
    pytest.param(binary(IPV4 + tlv(0x03, bytes(3))), id="checksum-cut"),
    pytest.param(with_checksum(IPV4).replace(b"\xdc\4", b"\xdc\5"), id="checksum-of-another"),
    pytest.param(binary(bytes(MAX_BINARY_OCTETS - 15)), id="2-too-long"),
]


@pytest.mark.parametrize("step", [1, 7, MAX_BINARY_OCTETS])
@pytest.mark.parametrize("wire", REFUSED)
def test_refused(wire: bytes, step: int) -> None:
    with pytest.raises(PreludeError, match=r"^(no|a|the) .*PROXY"):
        read(wire, step)


def test_a_line_is_refused_once_it_is_too_long() -> None:
    line = b"PROXY UNKNOWN " + b"x" * (MAX_TEXT_OCTETS - 14)
    assert octets_missing(line[:-1]) == 1
    with pytest.raises(PreludeError, match="too long"):
        octets_missing(line)


def test_checksum_is_that_of_the_standard() -> None:
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(b"") == 0
