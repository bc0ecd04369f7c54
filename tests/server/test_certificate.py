"""What a listener needs of its certificate, and what is told when it cannot be used."""

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
from cryptography.hazmat.primitives import serialization

from tests.certificates import Authority
from tests.support import Journal, settings
from trio_fcgimail.server import ListenError, Server
from trio_fcgimail.server.tls import CertificateError, server_context


@dataclass(frozen=True, slots=True)
class Files:
    """Where the two are, and all that can be put there."""

    authority: Authority
    certificate: Path
    key: Path

    def good(self) -> None:
        leaf = self.authority.issue()
        leaf.cert_chain_pems[0].write_to_path(self.certificate)
        leaf.private_key_pem.write_to_path(self.key)

    def no_certificate(self) -> None:
        self.good()
        self.certificate.unlink()

    def no_key(self) -> None:
        self.good()
        self.key.unlink()

    def folder(self) -> None:
        self.good()
        self.key.unlink()
        self.key.mkdir()

    def wrong_key(self) -> None:
        self.good()
        self.authority.issue().private_key_pem.write_to_path(self.key)

    def encrypted_key(self) -> None:
        self.good()
        key = serialization.load_pem_private_key(self.key.read_bytes(), None)
        self.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.BestAvailableEncryption(b"secret"),
            )
        )

    def certificate_of_another_form(self) -> None:
        self.good()
        self.certificate.write_bytes(ssl.PEM_cert_to_DER_cert(self.certificate.read_text()))

    def empty_key(self) -> None:
        self.good()
        self.key.write_bytes(b"")

    def swapped(self) -> None:
        self.good()
        certificate, key = self.certificate.read_bytes(), self.key.read_bytes()
        self.certificate.write_bytes(key)
        self.key.write_bytes(certificate)

    def garbled_certificate(self) -> None:
        self.good()
        self.certificate.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")


@pytest.fixture
def files(authority: Authority, tmp_path: Path) -> Files:
    return Files(authority, tmp_path / "mx.pem", tmp_path / "mx.key")


BAD: Final = [
    pytest.param(Files.no_certificate, "{certificate}: No such file or directory", id="no-certificate"),
    pytest.param(Files.no_key, "{key}: No such file or directory", id="no-key"),
    pytest.param(Files.folder, "{key}: Is a directory", id="a-folder"),
    pytest.param(Files.wrong_key, "{key}: the key is not that of {certificate}", id="wrong-key"),
    pytest.param(Files.encrypted_key, "{key}: the key is encrypted; store it without a password", id="encrypted-key"),
    pytest.param(Files.certificate_of_another_form, "{certificate}: no certificate in PEM form", id="der"),
    pytest.param(Files.empty_key, "{key}: no private key in PEM form", id="empty-key"),
    pytest.param(Files.swapped, "{certificate}: no certificate in PEM form", id="swapped"),
    pytest.param(Files.garbled_certificate, "{certificate}, {key}: OpenSSL cannot read them (", id="garbled"),
]


@pytest.mark.parametrize(("write", "told"), BAD)
def test_what_cannot_be_used_is_told_in_a_line(files: Files, write: Callable[[Files], None], told: str) -> None:
    write(files)
    with pytest.raises(CertificateError) as caught:
        server_context(files.certificate, files.key)
    text = str(caught.value)
    assert text.startswith(told.format(certificate=files.certificate, key=files.key))
    assert "\n" not in text


def test_a_key_beside_the_certificate_and_one_within(files: Files) -> None:
    files.good()
    server_context(files.certificate, files.key)
    server_context(files.authority.certificate, None)


def test_a_key_that_is_looked_for_within(files: Files) -> None:
    files.good()
    with pytest.raises(CertificateError, match="no private key in PEM form"):
        server_context(files.certificate, None)


def test_what_is_offered_to_a_client(files: Files) -> None:
    context = server_context(files.authority.certificate, None)
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert ssl.OP_NO_RENEGOTIATION in context.options
    assert ssl.OP_NO_COMPRESSION in context.options
    assert context.verify_mode is ssl.CERT_NONE


@pytest.mark.trio
async def test_a_server_without_its_certificate_listens_nowhere(files: Files, journal: Journal) -> None:
    config = settings(
        f"""
        [[listeners]]
        address = "unix:{files.key.parent}/smtp"
        [[listeners]]
        address = "unix:{files.key.parent}/smtps"
        tls = "implicit"
        certificate = "{files.certificate}"
        """
    )
    with pytest.raises(ListenError) as caught:
        await Server(config, log=journal.log).run()
    assert str(caught.value) == (
        f"cannot do TLS on unix:{files.key.parent}/smtps: {files.certificate}: No such file or directory"
    )
    assert not (files.key.parent / "smtp").exists()
