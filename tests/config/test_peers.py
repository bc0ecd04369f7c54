"""Lists of peers: what is taken, what is refused, and who is on one."""

from operator import attrgetter

import pytest

from tests.config.support import error_lines, read
from trio_fcgimail.config import Extension, PeerList

_ENTRY = 'a network such as "10.0.0.0/8" or "2001:db8::/32", an address, or "unix"'
_EXEMPT = "a list of the peers that the limits per minute leave alone"
_LISTENER = '[[listeners]]\naddress = "unix:/s"\n'
_AUTH = '[scripts]\nauth = "/a.php"\n'
_NONE = PeerList()


@pytest.mark.parametrize(
    ("entries", "ip", "held"),
    [
        pytest.param(["10.0.0.0/8"], "10.255.0.1", True, id="network"),
        pytest.param(["10.0.0.0/8"], "11.0.0.1", False, id="beside-it"),
        pytest.param(["10.0.0.1"], "10.0.0.1", True, id="address"),
        pytest.param(["10.0.0.1"], "10.0.0.2", False, id="another-address"),
        pytest.param(["2001:db8::/32"], "2001:db8:ffff::1", True, id="ipv6"),
        pytest.param(["::1"], "::1", True, id="ipv6-address"),
        pytest.param(["0.0.0.0/0"], "::1", False, id="all-of-ipv4-is-not-ipv6"),
        pytest.param(["0.0.0.0/0", "::/0"], "", False, id="every-address-is-not-unix"),
        pytest.param(["unix"], "", True, id="unix"),
        pytest.param(["unix"], "127.0.0.1", False, id="unix-is-no-address"),
        pytest.param([], "127.0.0.1", False, id="nobody"),
    ],
)
def test_who_is_on_a_list(entries: list[str], ip: str, held: bool) -> None:
    peers = PeerList.parse(entries)
    assert peers.holds(ip) is held
    assert bool(peers) is bool(entries)


@pytest.mark.parametrize(
    ("text", "attribute", "value"),
    [
        pytest.param('[limits]\nexempt_from = ["unix"]', "limits.exempt_from", PeerList.parse(["unix"]), id="exempt"),
        pytest.param("[limits]\nexempt_from = []", "limits.exempt_from", _NONE, id="nobody-exempt"),
        pytest.param("", "limits.exempt_from", PeerList.parse(["127.0.0.0/8", "::1"]), id="exempt-by-default"),
        pytest.param("[limits]\nconnections_per_minute_per_ip = 0", "limits.connections_per_minute_per_ip", None,
            id="no-rate"),
        pytest.param("[limits]\nmessages_per_minute_per_ip = 7", "limits.messages_per_minute_per_ip", 7, id="rate"),
        pytest.param("[limits]\nbanner_delay_seconds = 0", "limits.banner_delay_seconds", 0.0, id="no-pause"),
    ],
)  # fmt: skip
def test_value_becomes_attribute(text: str, attribute: str, value: object) -> None:
    assert attrgetter(attribute)(read(text)) == value


def test_a_listener_believes_nobody_by_default() -> None:
    (listener,) = read("").listeners
    assert (listener.proxy_protocol_from, listener.xclient_from) == (_NONE, _NONE)


@pytest.mark.parametrize("key", ["proxy_protocol_from", "xclient_from"])
def test_a_listener_believes_whom_it_is_told(key: str) -> None:
    (listener,) = read(f'{_LISTENER}{key} = ["10.0.0.0/8", "unix"]').listeners
    assert attrgetter(key)(listener) == PeerList.parse(["10.0.0.0/8", "unix"])


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        *(
            pytest.param(
                f"{_LISTENER}xclient_from = [{entry}]",
                [f"f: listeners[0].xclient_from[0]: found {entry}, expected {_ENTRY}"],
                id=entry,
            )
            for entry in ('"10.0.0.1/8"', '"10.0.0.0/33"', '"proxy.example"', '"*"', '""', "10", '"fe80::1%eth0/64"')
        ),
        pytest.param(
            '[limits]\nexempt_from = "10.0.0.0/8"',
            [f'f: limits.exempt_from: found "10.0.0.0/8", expected {_EXEMPT}'],
            id="no-list",
        ),
        pytest.param(
            f'{_LISTENER}extensions = ["XCLIENT"]',
            ['f: listeners[0].extensions: found ["XCLIENT"], expected XCLIENT only beside xclient_from'],
            id="xclient-for-nobody",
        ),
        pytest.param(
            f'{_LISTENER}extensions = ["XCLIENT"]\nxclient_from = ["x"]',
            [f'f: listeners[0].xclient_from[0]: found "x", expected {_ENTRY}'],
            id="one-mistake-one-line",
        ),
        pytest.param(
            "[limits]\nproxy_header_seconds = 0",
            ["f: limits.proxy_header_seconds: found 0, expected a number of seconds above 0 and up to 86400"],
            id="no-time-for-a-header",
        ),
        pytest.param(
            f"{_LISTENER}require_auth = true\n{_AUTH}",
            ["f: listeners[0].require_auth: found true, expected it only beside tls, or with auth_without_tls = true"],
            id="users-without-a-channel",
        ),
    ],
)
def test_refused_with_exactly_these_lines(text: str, lines: list[str]) -> None:
    assert error_lines(text) == lines


def test_xclient_may_be_named_beside_its_peers() -> None:
    (listener,) = read(f'{_LISTENER}extensions = ["xclient"]\nxclient_from = ["::1"]').listeners
    assert listener.extensions == (Extension.XCLIENT,)


def test_a_proxy_may_do_the_tls_of_users() -> None:
    listener = f'{_LISTENER}require_auth = true\nextensions = ["AUTH", "REQUIRETLS"]\nproxy_protocol_from = ["unix"]\n'
    assert error_lines(listener + _AUTH) == []
