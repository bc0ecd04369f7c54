"""Patterns of domains: what Go's filepath.Match takes, and what it does not."""

import time

import pytest

from trio_fcgimail.config import HostList
from trio_fcgimail.config.globs import Glob

MATCHES = [
    pytest.param("*", "example.com", True, id="everything"),
    pytest.param("*.wild.com", "a.wild.com", True, id="subdomain"),
    pytest.param("*.wild.com", "a.b.wild.com", True, id="star-takes-dots"),
    pytest.param("*.wild.com", "wild.com", False, id="not-the-domain-itself"),
    pytest.param("mx*.example.com", "mx.example.com", True, id="star-takes-nothing"),
    pytest.param("mx*.example.com", "mx12.example.com", True, id="within-a-label"),
    pytest.param("mx*.example.com", "amx1.example.com", False, id="the-whole-name"),
    pytest.param("mx?.e*", "mx1.example.com", True, id="one-character"),
    pytest.param("mx?.e*", "mx.example.com", False, id="one-character-is-one"),
    pytest.param("[a-c]*.com", "b.com", True, id="set"),
    pytest.param("[a-c]*.com", "d.com", False, id="beyond-the-set"),
    pytest.param("[^a-c]*.com", "d.com", True, id="inverted-set"),
    pytest.param("[^a-c]*.com", "a.com", False, id="beyond-the-inverted-set"),
    pytest.param("[a\\-]*.com", "-x.com", True, id="quoted-in-a-set"),
    pytest.param("[0-9x]*.com", "x.com", True, id="range-and-character"),
    pytest.param("a\\*.com*", "a*.com", True, id="quoted-star"),
    pytest.param("A*.COM", "ab.com", True, id="case"),
    pytest.param("*a*b*", "xxaxxbxx", True, id="several-stars"),
    pytest.param("*a*b*", "bbaa", False, id="in-their-order"),
    pytest.param("*ab", "aab", True, id="end-is-the-last"),
    pytest.param("a.c*", "abc", False, id="a-dot-is-a-dot"),
]


@pytest.mark.parametrize(("pattern", "domain", "matches"), MATCHES)
def test_pattern_matches_the_whole_name(pattern: str, domain: str, matches: bool) -> None:
    assert Glob.parse(pattern).matches(domain) is matches


@pytest.mark.parametrize(
    "pattern",
    ["", "[a*", "*[]a]", "[-a]*", "[a-]*", "[c-a]*", "a*\\", "*[a\\", "é*", "a *", "*" * 256],
    ids=["empty", "open", "empty-set", "no-low", "no-high", "order", "end", "end-in-set", "non-ascii", "blank", "long"],
)
def test_bad_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Glob.parse(pattern)


def test_pattern_of_many_stars_takes_no_time() -> None:
    glob = Glob.parse("*a" * 120 + "*b*c")
    began = time.process_time()
    for _ in range(100):
        assert not glob.matches("a" * 255)
    assert time.process_time() - began < 1


def test_list_takes_patterns_beside_names() -> None:
    hosts = HostList.parse(["a.example", "glob:mx*.example.com", "glob:192.0.2.*", "glob:2001:db8:*"])
    assert hosts.holds("MX7.Example.COM")
    assert hosts.holds("A.example")
    assert hosts.holds("[192.0.2.9]")
    assert hosts.holds("[IPv6:2001:db8::1]")
    assert not hosts.holds("[192.0.3.9]")
    assert not hosts.holds("example.com")


def test_pattern_of_everything_holds_what_is_no_domain_never() -> None:
    hosts = HostList.parse(["glob:*"])
    assert hosts.holds("[192.0.2.1]")
    assert not hosts.holds(None)
    assert not hosts.holds("a" * 256)
