"""Paths as another SMTP server reads them: the envelope parser of Haraka, in a Node.js beside us.

The differences to the standard library of Python are a target of the fuzzer (``fuzz/targets/address.py``).
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Final, final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz.run import HERE
from fuzz.targets.address import Difference, ours
from fuzz.targets.address import Path as Meaning
from tests.clients.programs import NODE_MODULES
from tests.clients.routes import missing, require

_PROGRAM: Final = Path(__file__).with_name("haraka.cjs")
_MODULE: Final = "address-rfc2821"
_IPV6: Final = re.compile(r"\[ipv6:([^\]]*)\]", re.IGNORECASE)


class Reason(Enum):
    """Why the two may differ: the closed list."""

    CONTROL = "controls of C1 and the line ends of Unicode are never taken by us: they break lines elsewhere"
    MARKS_IN_LITERAL = "quotation mark, angle brackets and @ within a literal are never taken by us"
    IPV6 = "they take IPv6:... with a zone or a wrong address for a literal of a general kind"
    TOO_LONG = "a label of more than 63 octets fits no DNS (RFC 1035 2.3.4)"
    LITERAL_IN_ROUTE = "in a route, which we ignore anyway, we take literals (RFC 821 had them)"


def _has_bad_ipv6(text: str) -> bool:
    for found in _IPV6.finditer(text):
        try:
            if ipaddress.IPv6Address(found[1]).scope_id is not None:
                return True
        except ValueError:
            return True
    return False


EXPLAINS: Final[Mapping[Reason, Callable[[Difference], bool]]] = {
    Reason.CONTROL: lambda it: it.ours is None and re.search("[\x80-\x9f\u2028\u2029]", it.text) is not None,
    Reason.MARKS_IN_LITERAL: lambda it: it.ours is None and re.search(r'\[[^\]]*["<>@][^\[]*\]', it.text) is not None,
    Reason.IPV6: lambda it: it.ours is None and _has_bad_ipv6(it.text),
    Reason.TOO_LONG: lambda it: it.ours is None and re.search(r"[A-Za-z0-9-]{64}", it.text) is not None,
    Reason.LITERAL_IN_ROUTE: lambda it: it.theirs is None and re.match(r"@[^:]*\[.*:", it.text) is not None,
}


@final
class Haraka:
    """Its parser, asked line by line."""

    def __init__(self) -> None:
        node = require("node", "nodejs")
        if not (NODE_MODULES / _MODULE).is_dir():
            missing(f"{_MODULE} is needed in {NODE_MODULES}: sh tests/run --install brings it")
        self._process = subprocess.Popen(
            [node, str(_PROGRAM)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"NODE_PATH": str(NODE_MODULES)},
        )

    def read(self, text: str) -> Meaning | None:
        """What it makes of what stands between the angle brackets; quotes and escapes taken off."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(json.dumps(f"<{text}>") + "\n")
        stdin.flush()
        answer: list[str | None] | None = json.loads(stdout.readline())
        if answer is None:
            return None
        local_part, domain = answer
        assert local_part is not None
        if local_part.startswith('"'):
            local_part = re.sub(r"\\(.)", r"\1", local_part[1:-1])
        return Meaning(local_part, domain)

    def close(self) -> None:
        """End it."""
        self._process.communicate(timeout=30)


@pytest.fixture(scope="module")
def haraka() -> Iterator[Haraka]:
    haraka = Haraka()
    yield haraka
    haraka.close()


def _same(it: Difference) -> bool:
    if it.ours is None or it.theirs is None:
        return it.ours is it.theirs
    if it.ours.domain is None:  # it gives postmaster in lower case
        return it.theirs == Meaning(it.ours.local_part.lower(), None)
    return it.ours.meaning == it.theirs.meaning


def explained(it: Difference) -> bool:
    """Whether there is no difference, or one with a reason."""
    return _same(it) or any(explains(it) for explains in EXPLAINS.values())


LOCAL: Final = st.lists(
    st.sampled_from(
        [
            *'ab."\\ -\u00fc!(\t\0\u2028\u0085',
            '"a b"',
            "=?",
            "\u00a0",
            '\\"',
            "x" * 33,
            "\\\u00fc",
            "\r\n ",
            "\U0001f600",
        ]
    ),
    min_size=1,
    max_size=4,
).map("".join)
DOMAIN: Final = st.lists(
    st.sampled_from(
        [
            *"ab.-[]:_\u00fc \\\u3000%\u00a0",
            "[192.0.2.1]",
            "[256.0.2.1]",
            "[01.2.3.4]",
            "[IPv6:2001:db8::1]",
            "[ipv6:::ffff:192.0.2.1]",
            "[IPv6:fe80::1%a]",
            "[IPv6:1:2:3:4:5:6:7:8:9]",
            "[::1]",
            "[X:a(]",
            "[X-:a]",
            "[X:a@b]",
            "x" * 62,
            "\U0001f600",
        ]
    ),
    min_size=1,
    max_size=3,
).map("".join)
ROUTE: Final = st.just("") | st.lists(st.sampled_from(["@a", "@b.c", "@[192.0.2.1]", ",", ":", "@b_", " "])).map(
    "".join
)
PATHS: Final = st.one_of(
    st.tuples(LOCAL, st.just("@"), DOMAIN).map("".join),
    st.tuples(ROUTE, st.just(":"), LOCAL, st.just("@"), DOMAIN).map("".join),
    st.text(max_size=12),
    st.sampled_from(["", "postmaster", "PostMaster", "postmaster@", "po\u017ftmaster"]),
)


@settings(deadline=None, max_examples=150)
@given(text=PATHS)
def test_random_paths_mean_the_same_to_haraka(haraka: Haraka, text: str) -> None:
    it = Difference(text, ours(text), haraka.read(text))
    assert explained(it), it


def test_the_corpus_of_the_fuzzer_means_the_same_to_haraka(haraka: Haraka) -> None:
    taken = 0
    for path in sorted((HERE / "corpus" / "address").iterdir()):
        text = path.read_bytes().decode(errors="replace")
        it = Difference(text, ours(text), haraka.read(text))
        assert explained(it), (path.name, it)
        taken += it.ours is not None and it.theirs is not None
    assert taken > 10, "both take many of them"


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        pytest.param(Reason.CONTROL, "a\u0085@b", id="control"),
        pytest.param(Reason.MARKS_IN_LITERAL, "a@[X:b@c]", id="marks"),
        pytest.param(Reason.IPV6, "a@[IPv6:fe80::1%a]", id="ipv6"),
        pytest.param(Reason.TOO_LONG, "a@" + "x" * 64, id="too-long"),
        pytest.param(Reason.LITERAL_IN_ROUTE, "@[192.0.2.1]:a@b", id="route"),
    ],
)
def test_every_reason_is_needed(haraka: Haraka, reason: Reason, text: str) -> None:
    it = Difference(text, ours(text), haraka.read(text))
    assert not _same(it)
    assert [one for one, explains in EXPLAINS.items() if explains(it)] == [reason]
