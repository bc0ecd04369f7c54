"""``check`` on certificates: what clients would make of them."""

from __future__ import annotations

import tomllib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.cli.support import HOSTNAME, configuration, write_configuration
from tests.phpfpm import PhpFpm
from tests.server_process import ServerProcess, free_port, run_command
from trio_fcgimail.cli.certificate import check_certificate, check_tls
from trio_fcgimail.cli.finding import Finding, State
from trio_fcgimail.config import make_settings

NOW: Final = datetime.now(UTC)
DAY: Final = timedelta(days=1)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def store(leaf: trustme.LeafCert, folder: Path) -> Path:
    """Certificate, chain and key in one file."""
    path = folder / "mx.pem"
    leaf.private_key_and_cert_chain_pem.write_to_path(path)
    return path


def look(path: Path, key: Path | None = None) -> Finding:
    finding = check_certificate("listeners[0].certificate", path, key, HOSTNAME, NOW)
    assert finding.subject == "listeners[0].certificate"
    return finding


@pytest.mark.parametrize(
    ("name", "end", "state", "told"),
    [
        pytest.param(HOSTNAME, NOW + 90 * DAY, State.GOOD, f"valid until {NOW + 90 * DAY:%Y-%m-%d}", id="good"),
        pytest.param("*.example.com", NOW + 90 * DAY, State.GOOD, "valid until", id="wildcard"),
        pytest.param(HOSTNAME, NOW + 13 * DAY, State.UNKNOWN, "; renew it soon", id="ends-soon"),
        pytest.param(HOSTNAME, NOW - DAY, State.BAD, "certificate has expired; renew it", id="has-ended"),
        pytest.param("mail.example.net", NOW + 90 * DAY, State.UNKNOWN, f"but not for {HOSTNAME}", id="another-name"),
    ],
)
def test_time_and_name(
    authority: trustme.CA, tmp_path: Path, name: str, end: datetime, state: State, told: str
) -> None:
    leaf = authority.issue_cert(name, not_before=NOW - 365 * DAY, not_after=end)
    finding = look(store(leaf, tmp_path))
    assert finding.state is state
    assert told in finding.detail


def test_what_has_not_begun(authority: trustme.CA, tmp_path: Path) -> None:
    leaf = authority.issue_cert(HOSTNAME, not_before=NOW + DAY, not_after=NOW + 90 * DAY)
    finding = look(store(leaf, tmp_path))
    assert finding.state is State.BAD
    assert "not yet valid" in finding.detail


def test_a_key_in_a_file_of_its_own(authority: trustme.CA, tmp_path: Path) -> None:
    leaf, other = authority.issue_cert(HOSTNAME), authority.issue_cert(HOSTNAME)
    chain, key = tmp_path / "mx.crt", tmp_path / "mx.key"
    chain.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
    leaf.private_key_pem.write_to_path(key)
    assert look(chain, key).state is State.GOOD
    other.private_key_pem.write_to_path(key)
    finding = look(chain, key)
    assert finding.state is State.BAD
    assert finding.detail.startswith(f"{key}: the key is not that of {chain}; correct ")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        pytest.param(None, "No such file or directory", id="not-there"),
        pytest.param("nonsense", "no certificate in PEM form", id="no-pem"),
    ],
)
def test_what_is_no_certificate(tmp_path: Path, content: str | None, told: str) -> None:
    path = tmp_path / "mx.pem"
    if content is not None:
        path.write_text(content)
    finding = look(path)
    assert finding.state is State.BAD
    assert finding.detail.startswith(f"{path}: {told}")


def test_a_key_that_no_client_of_today_knows(tmp_path: Path) -> None:
    key = dsa.generate_private_key(key_size=2048)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, HOSTNAME)])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, NOW - DAY, NOW + 90 * DAY)
    path = tmp_path / "mx.pem"
    path.write_bytes(
        builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)
        + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    finding = look(path)
    assert finding.state is State.BAD
    assert "clients cannot use it" in finding.detail


def _listener(path: Path, mode: str) -> str:
    return f'tls = "{mode}"\ncertificate = "{path}"'


def test_check_has_a_row_for_it_and_knows_our_own_server(authority: trustme.CA, php: PhpFpm, folder: Path) -> None:
    path = store(authority.issue_cert(HOSTNAME), folder)
    listen = f"127.0.0.1:{free_port()}"
    write_configuration(
        folder, configuration(listen=listen, upstream=php.address, listener=_listener(path, "implicit"))
    )
    with ServerProcess("serve", folder=folder):
        done = run_command("check", folder=folder)
    text = done.stdout.decode()
    assert done.returncode == 0, text
    assert "our server is running there" in text
    assert f"{path}: valid until" in " ".join(text.split())


def test_check_is_1_with_a_bad_one(php: PhpFpm, folder: Path) -> None:
    path = folder / "mx.pem"
    write_configuration(folder, configuration(upstream=php.address, listener=_listener(path, "starttls")))
    done = run_command("check", folder=folder)
    (row,) = [line for line in done.stdout.decode().splitlines() if "listeners[0].certificate" in line]
    assert done.returncode == 1
    assert row.startswith("NO")


# All of one listener


def _tls(folder: Path, more: str) -> list[tuple[str, State, str]]:
    text = configuration(listener=_listener(folder / "mx.pem", "starttls") + f"\n{more}")
    settings = make_settings(tomllib.loads(text))
    findings = check_tls("listeners[0]", settings.listeners[0], settings, NOW)
    return [(finding.subject, finding.state, finding.detail) for finding in findings]


def test_certificates_by_name_have_rows_of_their_own(authority: trustme.CA, tmp_path: Path) -> None:
    store(authority.issue_cert(HOSTNAME), tmp_path)
    others = [("other.pem", ("a.example", "b.example", "c.example", "d.example")), ("none.pem", ("192.0.2.1",))]
    more = ""
    for name, names in others:
        authority.issue_cert(*names).private_key_and_cert_chain_pem.write_to_path(tmp_path / name)
        more += f'[[listeners.certificates]]\ncertificate = "{tmp_path}/{name}"\n'
    first, second, third = _tls(tmp_path, more)
    assert first[:2] == ("listeners[0].certificate", State.GOOD)
    assert second[:2] == ("listeners[0].certificates[0]", State.GOOD)
    assert second[2].endswith(", for a.example, b.example, c.example, ...")
    assert third[:2] == ("listeners[0].certificates[1]", State.BAD)
    assert "no DNS names" in third[2]


@pytest.mark.parametrize(
    ("more", "told"),
    [
        pytest.param('ciphers = ["NO-SUCH-SUITE"]', "OpenSSL has none of the ciphers", id="suites"),
        pytest.param('client_certificates = "required"\nclient_ca = "/none"', "/none: No such file", id="authorities"),
    ],
)
def test_what_else_is_in_the_way(authority: trustme.CA, tmp_path: Path, more: str, told: str) -> None:
    store(authority.issue_cert(HOSTNAME), tmp_path)
    good, bad = _tls(tmp_path, more)
    assert good[1] is State.GOOD
    assert bad[:2] == ("listeners[0].tls", State.BAD)
    assert told in bad[2]
