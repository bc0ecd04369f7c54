"""Certificates by name: which one a client sees, what the others keep to, and what is told of those that cannot be."""

import ssl
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import pytest
import trustme

from tests.config.support import error_lines, read
from tests.tlsmemory import handshake
from trio_fcgimail.server.entrance import open_entrance
from trio_fcgimail.server.listeners import ListenError
from trio_fcgimail.server.workers.certificates import certificate_files, files_in_memory, read_files

AUTHORITY: Final = trustme.CA()
NOW: Final = datetime.now(UTC)
DAY: Final = timedelta(days=1)


def _store(leaf: trustme.LeafCert, path: Path) -> Path:
    leaf.private_key_and_cert_chain_pem.write_to_path(path)
    return path


def _listener(certificates: Sequence[Path], more: str = "") -> str:
    default, *others = certificates
    text = f'[[listeners]]\naddress = "127.0.0.1:25"\ntls = "implicit"\ncertificate = "{default}"\n{more}\n'
    return text + "".join(f'[[listeners.certificates]]\ncertificate = "{path}"\n' for path in others)


def _context(text: str) -> ssl.SSLContext:
    settings = read(text)
    context = open_entrance(settings, settings.listeners[0]).context
    assert context is not None
    return context


def _client(check: bool = False) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = check
    AUTHORITY.configure_trust(context)
    return context


def _seen(server: ssl.SSLContext, name: str | None) -> tuple[str, ...]:
    """The names of the certificate that a client sees who asks for a name."""
    facts = handshake(server, _client(), name)[0].getpeercert()
    assert facts is not None
    alternatives = facts["subjectAltName"]
    return tuple(str(pair[1]) for pair in alternatives)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    folder = tmp_path_factory.mktemp("names")
    names = [
        ("mx.example.com", "Default.example.com"),
        ("mx.example.org", "mail.example.org"),
        ("*.example.net",),
        ("mx.example.net",),
        ("mx.example.com", "late.example.com"),
        ("xn--bcher-kva.example",),
    ]
    paths = [_store(AUTHORITY.issue_cert(*one), folder / f"{number}.pem") for number, one in enumerate(names)]
    return _context(_listener(paths))


@pytest.mark.parametrize(
    ("asked", "seen"),
    [
        pytest.param("mx.example.org", "mx.example.org", id="its-own"),
        pytest.param("mail.example.org", "mx.example.org", id="second-name"),
        pytest.param("MX.Example.ORG", "mx.example.org", id="any-case"),
        pytest.param("a.example.net", "*.example.net", id="wildcard"),
        pytest.param("mx.example.net", "mx.example.net", id="the-very-name-before-a-wildcard"),
        pytest.param("a.b.example.net", "mx.example.com", id="a-wildcard-is-one-label"),
        pytest.param("example.net", "mx.example.com", id="a-wildcard-is-not-the-domain"),
        pytest.param("mx.example.com", "mx.example.com", id="the-first-of-two"),
        pytest.param("late.example.com", "late.example.com", id="the-second-of-two"),
        pytest.param("bücher.example", "xn--bcher-kva.example", id="u-label"),
        pytest.param("unknown.example", "mx.example.com", id="unknown"),
        pytest.param(None, "mx.example.com", id="none-asked-for"),
    ],
)
def test_the_certificate_is_that_of_the_name(server: ssl.SSLContext, asked: str | None, seen: str) -> None:
    assert seen in _seen(server, asked)


def test_clients_that_compare_names_are_content(server: ssl.SSLContext) -> None:
    for name in ("mx.example.org", "a.example.net", "default.example.com"):
        handshake(server, _client(check=True), name)


def test_what_the_listener_chooses_holds_for_all_names(tmp_path: Path) -> None:
    first, second = (_store(AUTHORITY.issue_cert(name), tmp_path / name) for name in ("a.example", "b.example"))
    AUTHORITY.cert_pem.write_to_path(tmp_path / "ca.pem")
    more = 'tls_maximum = "1.2"\nciphers = ["ECDHE-ECDSA-AES256-GCM-SHA384"]\nclient_certificates = "required"\n'
    server = _context(_listener([first, second], more + f'client_ca = "{tmp_path}/ca.pem"'))
    for name in ("a.example", "b.example"):
        with pytest.raises(ssl.SSLError):
            handshake(server, _client(), name)
        client = _client()
        AUTHORITY.issue_cert("client.example").configure_cert(client)
        theirs, ours = handshake(server, client, name)
        assert theirs.version() == "TLSv1.2"
        assert theirs.cipher() == ("ECDHE-ECDSA-AES256-GCM-SHA384", "TLSv1.2", 256)
        assert ours.getpeercert()
        stranger = _client()
        trustme.CA().issue_cert("client.example").configure_cert(stranger)
        with pytest.raises(ssl.SSLError):
            handshake(server, stranger, name)


def test_one_that_has_ended_is_still_the_one_of_its_name(tmp_path: Path) -> None:
    """As without names: clients that do not look at dates go on, and ``check`` tells."""
    first = _store(AUTHORITY.issue_cert("a.example"), tmp_path / "a.pem")
    old = AUTHORITY.issue_cert("b.example", not_before=NOW - 9 * DAY, not_after=NOW - DAY)
    server = _context(_listener([first, _store(old, tmp_path / "b.pem")]))
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        handshake(server, _client(), "b.example")
    assert _seen(server, "a.example") == ("a.example",)


@dataclass(frozen=True, slots=True)
class Bad:
    """A further certificate that cannot be, and what is told."""

    leaf: trustme.LeafCert | None
    told: str


BAD: Final = [
    pytest.param(Bad(None, "other.pem: No such file"), id="no-file"),
    pytest.param(
        Bad(AUTHORITY.issue_cert(common_name="Ours"), "other.pem: no DNS names in it"),
        id="no-alternative-names",
    ),
    pytest.param(Bad(AUTHORITY.issue_cert("192.0.2.1"), "other.pem: no DNS names in it"), id="an-address"),
]


@pytest.mark.parametrize("bad", BAD)
def test_one_that_cannot_be_chosen_is_told(tmp_path: Path, bad: Bad) -> None:
    first = _store(AUTHORITY.issue_cert("a.example"), tmp_path / "a.pem")
    other = tmp_path / "other.pem"
    if bad.leaf is not None:
        _store(bad.leaf, other)
    with pytest.raises(ListenError, match=bad.told):
        _context(_listener([first, other]))


def test_the_first_may_be_without_names(tmp_path: Path) -> None:
    first = _store(AUTHORITY.issue_cert("192.0.2.1"), tmp_path / "a.pem")
    second = _store(AUTHORITY.issue_cert("b.example"), tmp_path / "b.pem")
    server = _context(_listener([first, second]))
    assert _seen(server, "b.example") == ("b.example",)
    assert _seen(server, "a.example") == ("192.0.2.1",)


def test_all_files_are_watched_and_go_to_the_children(tmp_path: Path) -> None:
    first, second = (_store(AUTHORITY.issue_cert(name), tmp_path / name) for name in ("a.example", "b.example"))
    key = tmp_path / "c.key"
    third = AUTHORITY.issue_cert("c.example")
    third.private_key_pem.write_to_path(key)
    third.cert_chain_pems[0].write_to_path(tmp_path / "c.pem")
    settings = read(_listener([first, second, tmp_path / "c.pem"]) + f'private_key = "{key}"\n')
    assert certificate_files(settings) == (first, second, tmp_path / "c.pem", key)
    files = read_files(settings)
    for path in certificate_files(settings):
        path.unlink()
    with files_in_memory(settings, files) as moved:
        context = open_entrance(moved, moved.listeners[0]).context
    assert context is not None
    assert _seen(context, "c.example") == ("c.example",)


def test_names_that_are_none_do_no_harm(server: ssl.SSLContext) -> None:
    for name in (".", "a" * 63 + ".example", "-", "*.example.net", "_.example.net"):
        with suppress(ValueError):  # what the client's own end will not send
            assert _seen(server, name)


WRONG: Final = [
    pytest.param(
        '[[listeners]]\naddress = "127.0.0.1:25"\n[[listeners.certificates]]\ncertificate = "/c"\n',
        'listeners[0].certificates[0].certificate: found "/c", expected it only beside a certificate of the listener',
        id="without-tls",
    ),
    pytest.param(
        '[[listeners]]\naddress = "127.0.0.1:25"\ntls = "starttls"\ncertificate = "/c"\n'
        '[[listeners.certificates]]\nprivate_key = "/k"\n',
        "listeners[0].certificates[0].certificate: found nothing, expected the path of a PEM file",
        id="a-key-alone",
    ),
    pytest.param(
        '[[listeners]]\naddress = "127.0.0.1:25"\ntls = "starttls"\ncertificate = "/c"\ncertificates = []\n',
        "listeners[0].certificates: found an empty list",
        id="empty",
    ),
    pytest.param(
        '[[listeners]]\naddress = "127.0.0.1:25"\ntls = "starttls"\ncertificate = "/c"\n'
        + 257 * '[[listeners.certificates]]\ncertificate = "/c"\n',
        'listeners[0].certificates: found "257 tables", expected 1 to 256 tables',
        id="too-many",
    ),
]


@pytest.mark.parametrize(("text", "told"), WRONG)
def test_mistakes_are_told(text: str, told: str) -> None:
    assert any(told in line for line in error_lines(text)), error_lines(text)
