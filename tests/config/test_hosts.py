"""Domains and `allowed_hosts`."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trio_fcgimail.config import HostList, is_domain

ALLOWED = [
    pytest.param(["example.com"], "example.com", True, id="exact"),
    pytest.param(["Example.COM"], "eXample.com", True, id="any-case"),
    pytest.param(["example.com"], "a.example.com", False, id="exact-is-not-below"),
    pytest.param(["example.com"], "badexample.com", False, id="no-suffix-match"),
    pytest.param(["*.example.org"], "a.example.org", True, id="below"),
    pytest.param(["*.example.org"], "a.b.c.EXAMPLE.org", True, id="far-below"),
    pytest.param(["*.example.org"], "example.org", False, id="below-is-not-bare"),
    pytest.param(["*.example.org"], "badexample.org", False, id="below-needs-a-dot"),
    pytest.param(["*.example.org"], "example.org.evil.example", False, id="below-at-the-end-only"),
    pytest.param(["."], "anything.example", True, id="any"),
    pytest.param(["."], "[192.0.2.1]", True, id="any-literal"),
    pytest.param(["."], None, False, id="any-needs-a-domain"),
    pytest.param(["example.com"], None, False, id="no-domain"),
    pytest.param(["[192.0.2.1]"], "[192.0.2.1]", True, id="ipv4"),
    pytest.param(["[192.0.2.1]"], "192.0.2.1", False, id="brackets-count"),
    pytest.param(["[192.0.2.1]"], "[192.0.2.2]", False, id="other-ipv4"),
    pytest.param(["[IPv6:2001:db8::1]"], "[ipv6:2001:0DB8:0:0::0:1]", True, id="ipv6-normalised"),
    pytest.param(["[IPv6:::ffff:192.0.2.1]"], "[192.0.2.1]", False, id="mapped-is-another"),
    pytest.param(["[X25:31]"], "[x25:31]", True, id="general-literal"),
    pytest.param(["[X25:31]"], "[X25:32]", False, id="other-general-literal"),
    pytest.param(["example.com"], "[what", False, id="no-literal-at-all"),
    pytest.param(["bücher.example"], "BÜCHER.example", True, id="u-label"),
    pytest.param(["bücher.example"], "xn--bcher-kva.example", True, id="u-label-listed-a-label-sent"),
    pytest.param(["XN--Bcher-KVA.example"], "bücher.example", True, id="a-label-listed-u-label-sent"),
    pytest.param(["*.bücher.example"], "a.b.xn--bcher-kva.example", True, id="below-u-label"),
    pytest.param(["*.xn--bcher-kva.example"], "müller.bücher.example", True, id="u-label-below-a-label"),
    pytest.param(["*.bücher.example"], "xn--bcher-kva.example", False, id="below-u-label-is-not-bare"),
    pytest.param(["straße.example"], "strasse.example", False, id="sharp-s-is-another-letter"),
    pytest.param(["ශ්\u200dරී.example"], "xn--10cl1a0b660p.example", True, id="joiner"),
    pytest.param(["xn--a.example"], "XN--A.example", True, id="odd-a-label"),
    pytest.param(["*.example.org"], "a。example.org", False, id="only-a-dot-parts-labels"),
    pytest.param(["*.example.org"], "☕.example.org", False, id="no-name-below"),
    pytest.param(["."], "☕.example", True, id="any-name-at-all"),
    pytest.param(["*.example.org"], "a." * 200 + "example.org", False, id="too-long-to-be-a-domain"),
    pytest.param(["example.com"], "", False, id="empty"),
]


@pytest.mark.parametrize(("entries", "domain", "allowed"), ALLOWED)
def test_holds(entries: list[str], domain: str | None, allowed: bool) -> None:
    assert HostList.parse(entries).holds(domain) is allowed


def test_holds_any_only_with_a_dot() -> None:
    assert HostList.parse(["example.com", "."]).holds_any
    assert not HostList.parse(["example.com"]).holds_any


BAD = ["", "*", "*.", "a..b", ".example.com", "example.com.", "-a.example", "a-.example", "a b", "a_b.example", "a@b"]
BAD += ["[192.0.2]", "[192.0.2.1", "[2001:db8::1]", "[IPv6:192.0.2.1]", "[IPv6:fe80::1%eth0]", "[]"]
BAD += ["☕.example", "*.☕.example", "a。example", "a\u00ad.example", "ü" * 58 + ".example", "אa.example"]
BAD += ["[foo]", "[X:a@b]", "*.[192.0.2.1]"]
BAD += ["x" * 64 + ".example", "a." * 130 + "b", "a\u200b.example", "a\n", "\udc80.example", "\u0130" * 200]


@pytest.mark.parametrize("entry", BAD, ids=ascii)
def test_entry_is_refused(entry: str) -> None:
    with pytest.raises(ValueError, match=r"is not an? (domain|address literal)"):
        HostList.parse([entry])


DOMAINS = [
    pytest.param("mx.example.com", True, id="domain"),
    pytest.param("localhost", True, id="one-label"),
    pytest.param("bücher.example", False, id="ascii-only"),
    pytest.param("a_b", False, id="underscore"),
    pytest.param("mx.example.com.", False, id="final-dot"),
    pytest.param("\u212a.example", False, id="kelvin-sign-is-no-k"),
]


@pytest.mark.parametrize(("text", "good"), DOMAINS)
def test_is_domain(text: str, good: bool) -> None:
    assert is_domain(text) is good


@settings(deadline=None)
@given(st.text(max_size=300))
def test_any_text_is_judged_without_an_exception(text: str) -> None:
    hosts = HostList.parse(["example.com", "*.example.org", "[IPv6:::1]"])
    assert hosts.holds(text) in (True, False)
