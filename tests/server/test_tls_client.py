"""What a script is told of a client by its certificate: written as RFC 4514 does, and only once it was verified."""

import hashlib
from typing import Final

import pytest

from trio_fcgimail.mail import ClientCertificate
from trio_fcgimail.server.tlsclient import MAX_SUBJECT_OCTETS, client_certificate, client_of_proxy

DER: Final = b"certificate"
SHA256: Final = hashlib.sha256(DER).hexdigest()

SUBJECTS: Final = [
    pytest.param(((("commonName", "client.example"),),), "CN=client.example", id="one"),
    pytest.param(
        ((("countryName", "DE"),), (("organizationName", "Example"),), (("commonName", "a"),)),
        "CN=a,O=Example,C=DE",
        id="from-the-last",
    ),
    pytest.param(((("commonName", "a"), ("userId", "7")),), "CN=a+UID=7", id="several-in-one"),
    pytest.param(((("emailAddress", "a@b.example"),),), "emailAddress=a@b.example", id="no-short-name"),
    pytest.param(((("commonName", "a,O=Bank"),),), "CN=a\\,O\\=Bank", id="comma"),
    pytest.param(((("commonName", 'a"+;<>\\b'),),), 'CN=a\\"\\+\\;\\<\\>\\\\b', id="marks"),
    pytest.param(((("commonName", " a "),),), "CN=\\ a\\ ", id="spaces-at-the-ends"),
    pytest.param(((("commonName", "#a"),),), "CN=\\#a", id="hash"),
    pytest.param(((("commonName", "a\r\nb\0"),),), "CN=a\\0d\\0ab\\00", id="controls"),
    pytest.param(((("commonName", "Zoë"),),), "CN=Zoë", id="utf-8"),
    pytest.param(((("commonName", "a\u202eb"),),), "CN=a\\e2\\80\\aeb", id="turned-around"),
    pytest.param((), "", id="empty"),
    pytest.param(((("commonName", "x" * MAX_SUBJECT_OCTETS),),), "", id="too-long"),
]


@pytest.mark.parametrize(("names", "subject"), SUBJECTS)
def test_subject(names: object, subject: str) -> None:
    assert client_certificate({"subject": names}, DER) == ClientCertificate(subject, SHA256)


def test_without_a_certificate_nothing_is_told() -> None:
    assert client_certificate(None, None) is None
    assert client_certificate({}, DER) is None  # not verified, as the ssl module says it


def test_by_a_proxy_it_is_the_common_name() -> None:
    assert client_of_proxy("a,b") == ClientCertificate("CN=a\\,b")
    assert client_of_proxy("") == ClientCertificate("")
    assert client_of_proxy("x" * 2000) == ClientCertificate("")
