"""Addresses to listen on and to connect to."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trio_fcgimail.config import TcpAddress, UnixAddress, parse_listen_address, parse_upstream_address

BOTH = [
    pytest.param("unix:/run/a.sock", UnixAddress("/run/a.sock"), "unix:/run/a.sock", id="unix"),
    pytest.param("unix:/a:b c", UnixAddress("/a:b c"), "unix:/a:b c", id="unix-odd-name"),
    pytest.param("tcp:10.0.0.2:9000", TcpAddress("10.0.0.2", 9000), "10.0.0.2:9000", id="tcp"),
    pytest.param("10.0.0.2:9000", TcpAddress("10.0.0.2", 9000), "10.0.0.2:9000", id="plain"),
    pytest.param("tcp:[::1]:9000", TcpAddress("::1", 9000), "[::1]:9000", id="ipv6"),
    pytest.param("[0:0:0::1]:9", TcpAddress("::1", 9), "[::1]:9", id="ipv6-normalised"),
    pytest.param("[fe80::1%eth0]:25", TcpAddress("fe80::1%eth0", 25), "[fe80::1%eth0]:25", id="ipv6-zone"),
    pytest.param("Php_FPM:9000", TcpAddress("php_fpm", 9000), "php_fpm:9000", id="container-name"),
    pytest.param("x" * 63 + ":9", TcpAddress("x" * 63, 9), "x" * 63 + ":9", id="longest-label"),
    pytest.param("localhost:65535", TcpAddress("localhost", 65535), "localhost:65535", id="name-and-highest-port"),
]


@pytest.mark.parametrize(("text", "address", "back"), BOTH)
def test_address_is_read_and_put_back(text: str, address: TcpAddress | UnixAddress, back: str) -> None:
    for parse in (parse_listen_address, parse_upstream_address):
        assert parse(text) == address
        assert str(address) == back
        assert parse(back) == address


BAD = [
    pytest.param("", "neither HOST:PORT nor unix:/PATH", id="empty"),
    pytest.param("localhost", "neither HOST:PORT nor unix:/PATH", id="no-port"),
    pytest.param("tcp:25", "neither HOST:PORT nor unix:/PATH", id="port-only"),
    pytest.param(":25", "neither an IP address nor the name", id="no-host"),
    pytest.param("*.example.com:25", "neither an IP address nor the name", id="star-in-a-name"),
    pytest.param("300.1.1.1:25", "neither an IP address nor the name", id="no-ip-and-no-name"),
    pytest.param("a b:25", "neither an IP address nor the name", id="space"),
    pytest.param("x" * 300 + ":25", "neither an IP address nor the name", id="long-name"),
    pytest.param("x" * 64 + ".example.com:25", "neither an IP address nor the name", id="long-label"),
    pytest.param("mx..example.com:25", "neither an IP address nor the name", id="empty-label"),
    pytest.param("::1:25", "in brackets", id="ipv6-without-brackets"),
    pytest.param("[127.0.0.1]:25", "not an IPv6 address", id="ipv4-in-brackets"),
    pytest.param("[fe80::1%\n]:25", "not an IPv6 address", id="zone-of-controls"),
    pytest.param("localhost:65536", "a port from", id="port-above"),
    pytest.param("localhost:+5", "a port from", id="port-signed"),
    pytest.param("localhost:\u0665", "a port from", id="port-of-other-digits"),
    pytest.param("unix:a.sock", "not an absolute path", id="unix-relative"),
    pytest.param("unix:/run/", "not an absolute path", id="unix-folder"),
    pytest.param("unix:/a\0b", "not an absolute path", id="unix-nul"),
    pytest.param("unix:/" + "a" * 107, "at most 107 octets, this one 108", id="unix-too-long"),
]


@pytest.mark.parametrize(("text", "reason"), BAD)
def test_address_is_refused_with_the_reason(text: str, reason: str) -> None:
    for parse in (parse_listen_address, parse_upstream_address):
        with pytest.raises(ValueError, match=reason) as caught:
            parse(text)
        assert str(caught.value).isprintable()


def test_port_0_is_for_listening_only() -> None:
    assert parse_listen_address("127.0.0.1:0") == TcpAddress("127.0.0.1", 0)
    with pytest.raises(ValueError, match="a port from 1 to 65535"):
        parse_upstream_address("127.0.0.1:0")


def test_every_address_is_for_listening_only() -> None:
    address = parse_listen_address("*:25")
    assert address == TcpAddress("*", 25)
    assert str(address) == "*:25"
    assert not address.is_loopback
    with pytest.raises(ValueError, match="neither an IP address"):
        parse_upstream_address("*:9000")
    with pytest.raises(ValueError, match="a port from 0"):
        parse_listen_address("*:x")


def test_longest_socket_path_is_taken() -> None:
    path = "/" + "a" * 106
    assert parse_listen_address(f"unix:{path}") == UnixAddress(path)


LOOPBACK = [
    ("127.0.0.1:25", True),
    ("127.9.9.9:25", True),
    ("[::1]:25", True),
    ("localhost:25", True),
    ("unix:/a", True),
    ("0.0.0.0:25", False),
    ("[::]:25", False),
    ("192.0.2.1:25", False),
    ("mx.example.com:25", False),
]


@pytest.mark.parametrize(("text", "loopback"), LOOPBACK)
def test_loopback(text: str, loopback: bool) -> None:
    assert parse_listen_address(text).is_loopback is loopback


@settings(deadline=None)
@given(
    st.text(max_size=120)
    | st.from_regex(r"(tcp:|unix:/)?[\[\]:.%a-f0-9]{0,30}:[0-9]{0,6}")
    | st.from_regex(r"([a-z]|-|_){0,70}(\.([a-z]){0,70}){0,3}:25", fullmatch=True)
)
def test_what_parses_is_put_back_and_the_rest_is_a_value_error(text: str) -> None:
    for parse in (parse_listen_address, parse_upstream_address):
        try:
            address = parse(text)
        except ValueError as error:
            address, reason = None, str(error)
        if address is None:
            assert reason.isprintable()
        else:
            assert parse(str(address)) == address
            if isinstance(address, TcpAddress):
                address.host.encode("idna")  # as the resolver does; what it cannot is a UnicodeError there
