"""Versions, suites, curves and certificates of clients: each seen in a handshake in memory."""

import ssl
from pathlib import Path

import pytest
import trustme

from tests.config.support import read
from tests.tlsmemory import handshake
from trio_fcgimail.config import ListenerSettings
from trio_fcgimail.server.entrance import open_entrance
from trio_fcgimail.server.listeners import ListenError

AUTHORITY = trustme.CA()


def _listener(folder: Path, more: str) -> ssl.SSLContext:
    certificate = folder / "mx.pem"
    AUTHORITY.issue_cert("mx.example.com").private_key_and_cert_chain_pem.write_to_path(certificate)
    AUTHORITY.cert_pem.write_to_path(folder / "ca.pem")
    settings = read(
        f'[[listeners]]\naddress = "127.0.0.1:25"\ntls = "starttls"\ncertificate = "{certificate}"\n'
        + more.replace("FOLDER", str(folder))
    )
    context = open_entrance(settings, settings.listeners[0]).context
    assert isinstance(settings.listeners[0], ListenerSettings)
    assert context is not None
    return context


def _client() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    AUTHORITY.configure_trust(context)
    return context


def test_by_default_anything_from_1_2_on_and_no_certificate_is_asked_for(tmp_path: Path) -> None:
    server = _listener(tmp_path, "")
    assert server.minimum_version is ssl.TLSVersion.TLSv1_2
    assert server.verify_mode is ssl.CERT_NONE
    assert handshake(server, _client())[0].version() == "TLSv1.3"


def test_maximum_is_kept(tmp_path: Path) -> None:
    assert handshake(_listener(tmp_path, 'tls_maximum = "1.2"'), _client())[0].version() == "TLSv1.2"


def test_minimum_refuses_older_clients(tmp_path: Path) -> None:
    client = _client()
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError, match=r"PROTOCOL_VERSION|UNSUPPORTED_PROTOCOL"):
        handshake(_listener(tmp_path, 'tls_minimum = "1.3"'), client)


def test_suites_are_those_that_were_chosen(tmp_path: Path) -> None:
    server = _listener(tmp_path, 'tls_maximum = "1.2"\nciphers = ["ECDHE-ECDSA-AES256-GCM-SHA384"]')
    cipher = handshake(server, _client())[0].cipher()
    assert cipher is not None
    assert cipher[0] == "ECDHE-ECDSA-AES256-GCM-SHA384"


def test_curve_is_the_one_that_was_chosen(tmp_path: Path) -> None:
    server = _listener(tmp_path, 'curves = ["P-521"]')
    client = _client()
    client.set_ecdh_curve("prime256v1")
    with pytest.raises(ssl.SSLError):
        handshake(server, client)
    client.set_ecdh_curve("secp521r1")
    assert handshake(server, client)[0].version() == "TLSv1.3"


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_required_certificate_of_a_client(tmp_path: Path, version: str) -> None:
    server = _listener(
        tmp_path,
        f'client_certificates = "required"\nclient_ca = "FOLDER/ca.pem"\ntls_maximum = "{version}"',
    )
    with pytest.raises(ssl.SSLError):
        handshake(server, _client())
    client = _client()
    AUTHORITY.issue_cert("client.example.com").configure_cert(client)
    assert handshake(server, client)[0].version() == f"TLSv{version}"


def test_optional_certificate_may_be_absent_but_not_wrong(tmp_path: Path) -> None:
    server = _listener(tmp_path, 'client_certificates = "optional"\nclient_ca = "FOLDER/ca.pem"')
    handshake(server, _client())
    client = _client()
    trustme.CA().issue_cert("client.example.com").configure_cert(client)
    with pytest.raises(ssl.SSLError):
        handshake(server, client)


def test_without_authorities_of_its_own_the_systems_count(tmp_path: Path) -> None:
    server = _listener(tmp_path, 'client_certificates = "optional"')
    assert server.verify_mode is ssl.CERT_OPTIONAL
    handshake(server, _client())


PROBLEMS = [
    pytest.param('ciphers = ["NO-SUCH-SUITE"]', "OpenSSL has none of the ciphers", id="ciphers"),
    pytest.param('client_certificates = "required"\nclient_ca = "/none"', "/none: No such file", id="no-file"),
    pytest.param(
        'client_certificates = "required"\nclient_ca = "/dev/null"',
        "/dev/null: no certificates in PEM form",
        id="no-pem",
    ),
]


@pytest.mark.parametrize(("more", "problem"), PROBLEMS)
def test_what_cannot_be_chosen_is_said_at_the_start(tmp_path: Path, more: str, problem: str) -> None:
    with pytest.raises(ListenError, match=problem):
        _listener(tmp_path, more)


def test_curve_that_python_cannot_choose_is_said_at_the_start(tmp_path: Path) -> None:
    """X25519 in some versions of Python with OpenSSL 3; in all others it is the one that is spoken."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).set_ecdh_curve("X25519")
    except ssl.SSLError:
        with pytest.raises(ListenError, match="this Python cannot choose the curve X25519"):
            _listener(tmp_path, 'curves = ["X25519"]')
    else:
        assert handshake(_listener(tmp_path, 'curves = ["X25519"]'), _client())[0].version() == "TLSv1.3"
