"""When two spellings are one domain, beside names that registries really have."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.mail.support import mailboxes
from trio_fcgimail.mail import comparable_domain
from trio_fcgimail.smtp import Mailbox


@pytest.mark.parametrize(
    ("domain", "name"),
    [
        pytest.param("bücher.example", "xn--bcher-kva.example", id="latin"),
        pytest.param("BÜCHER.Example", "xn--bcher-kva.example", id="upper-case"),
        pytest.param("bu\u0308cher.example", "xn--bcher-kva.example", id="decomposed"),
        pytest.param("XN--Bcher-KVA.example", "xn--bcher-kva.example", id="a-label"),
        pytest.param("straße.example", "xn--strae-oqa.example", id="sharp-s-is-no-ss"),
        pytest.param("STRASSE.example", "strasse.example", id="ss-is-no-sharp-s"),
        pytest.param("βόλος.example", "xn--nxasmm1c.example", id="final-sigma"),
        pytest.param("例子.广告", "xn--fsqu00a.xn--4rr70v", id="chinese"),
        pytest.param("почта.рф", "xn--80a1acny.xn--p1ai", id="cyrillic"),
        pytest.param("إختبار.example", "xn--kgbechtv.example", id="right-to-left"),
        pytest.param("\uff45\uff58\uff41\uff4d\uff50\uff4c\uff45.\uff43\uff4f\uff4d", "example.com", id="full-width"),
        pytest.param("ශ්\u200dරී.com", "xn--10cl1a0b660p.com", id="joiner-in-its-place"),
        pytest.param("\u0646\u0627\u0645\u0647\u200c\u0627\u06cc.com", "xn--mgba3gch31f060k.com", id="non-joiner"),
        pytest.param("a_b.bücher.-c", "a_b.xn--bcher-kva.-c", id="odd-ascii-beside-a-u-label"),
        pytest.param("ü" * 57, "xn--" + "tda" + "a" * 56, id="a-label-of-63"),
    ],
)
def test_one_name(domain: str, name: str) -> None:
    assert comparable_domain(domain) == name
    assert comparable_domain(name) == name


@pytest.mark.parametrize(
    "domain",
    [
        pytest.param("☕.example", id="emoji"),
        pytest.param("a\u2044b.example", id="fraction-slash"),
        pytest.param("\u0301a.example", id="combining-mark-first"),
        pytest.param("a\u200db.example", id="joiner-out-of-place"),
        pytest.param("a·b.example", id="middle-dot-out-of-place"),
        pytest.param("אa.example", id="two-directions"),
        pytest.param("-ü.example", id="hyphen-first"),
        pytest.param("ü-.example", id="hyphen-last"),
        pytest.param("xn--ü.example", id="punycode-prefix-before-a-u-label"),
        pytest.param("ab--ü.example", id="hyphens-at-three-and-four"),
        pytest.param("\uff58\uff4e\uff0d\uff0da.example", id="full-width-prefix-of-nothing"),
        pytest.param("ü_a.example", id="underscore-beside-a-u-letter"),
        pytest.param("a。b.example", id="ideographic-full-stop"),
        pytest.param("a\uff0eb.example", id="full-width-full-stop"),
        pytest.param("\u00ad.example", id="nothing-left"),
        pytest.param("a\u2100.example", id="maps-to-a-slash"),
        pytest.param("\u0378.example", id="unassigned"),
        pytest.param("ü\udc80.example", id="surrogate"),
        pytest.param("ü" * 58, id="a-label-of-64"),
        pytest.param(".".join(["ü" * 40] * 6), id="a-labels-of-more-than-255"),
        pytest.param("ü" * 256, id="256-characters"),
        pytest.param("[ü]", id="no-literal"),
    ],
)
def test_what_is_no_name(domain: str) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        comparable_domain(domain)


@pytest.mark.parametrize(
    "domain", ["xn--a", "xn--", "XN--99999999", "a--b", "ab--c", "A_B", "1.2", "[IPv6:::1]", "[X25:A(1)]", "a" * 300]
)
def test_ascii_is_lower_cased_only(domain: str) -> None:
    assert comparable_domain(domain) == domain.lower()


@given(mailboxes())
def test_what_smtp_lets_pass_has_one_name_or_none(mailbox: Mailbox) -> None:
    assert mailbox.domain is not None
    try:
        name = comparable_domain(mailbox.domain)
    except ValueError:
        assert not mailbox.domain.isascii()
        return
    assert name.isascii()
    assert comparable_domain(name) == name
    assert Mailbox("a", name).domain == name
    assert name.count(".") == mailbox.domain.count(".")


@given(st.text(max_size=300))
def test_any_text_has_a_name_or_is_a_value_error(text: str) -> None:
    try:
        name = comparable_domain(text)
    except ValueError:
        assert not text.isascii()
    else:
        assert name.isascii()
        assert text.isascii() or len(name) <= 255
