"""What the settings alone say to an address."""

import pytest

from tests.support import settings
from trio_fcgimail.server.policy import recipient_refusal, sender_refusal
from trio_fcgimail.smtp import Mailbox, Reply, catalogue

TOML = """
allowed_hosts = ["example.com", "*.example.com", "bücher.example"]
null_mx_hosts = ["www.example.com", "*.null.example", "例子.example", "[192.0.2.1]"]
"""


@pytest.mark.parametrize(
    ("domain", "reply"),
    [
        pytest.param("example.com", None, id="ours"),
        pytest.param("mail.example.com", None, id="below-ours"),
        pytest.param("xn--bcher-kva.example", None, id="ours-as-a-label"),
        pytest.param("example.net", catalogue.RELAY_DENIED, id="foreign"),
        pytest.param("[192.0.2.2]", catalogue.RELAY_DENIED, id="foreign-literal"),
        pytest.param("www.example.com", catalogue.DOMAIN_TAKES_NO_MAIL, id="null-mx-of-ours"),
        pytest.param("WWW.EXAMPLE.COM", catalogue.DOMAIN_TAKES_NO_MAIL, id="null-mx-in-any-case"),
        pytest.param("a.www.example.com", None, id="below-null-mx"),
        pytest.param("a.b.null.example", catalogue.DOMAIN_TAKES_NO_MAIL, id="below-null-mx-listed"),
        pytest.param("null.example", catalogue.RELAY_DENIED, id="above-null-mx"),
        pytest.param("xn--fsqu00a.example", catalogue.DOMAIN_TAKES_NO_MAIL, id="null-mx-as-a-label"),
        pytest.param("[192.0.2.1]", catalogue.DOMAIN_TAKES_NO_MAIL, id="null-mx-literal"),
        pytest.param("☕.null.example", catalogue.INVALID_U_LABEL, id="no-name-comes-first"),
        pytest.param(None, None, id="postmaster"),
    ],
)
def test_recipient(domain: str | None, reply: Reply | None) -> None:
    assert recipient_refusal(Mailbox("postmaster", domain), settings(TOML)) is reply


@pytest.mark.parametrize(
    ("domain", "reply"),
    [
        pytest.param("example.net", None, id="any"),
        pytest.param("www.example.com", None, id="null-mx-is-about-recipients"),
        pytest.param("xn--a.example", None, id="odd-a-label"),
        pytest.param("[X25:31]", None, id="literal"),
        pytest.param("例子.广告", None, id="u-label"),
        pytest.param("☕.example", catalogue.INVALID_U_LABEL, id="no-name"),
    ],
)
def test_sender(domain: str, reply: Reply | None) -> None:
    assert sender_refusal(Mailbox("a", domain)) is reply


def test_the_null_sender_is_taken() -> None:
    assert sender_refusal(None) is None
