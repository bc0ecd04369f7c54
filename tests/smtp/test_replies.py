"""Replies: what cannot be said, how they are written, and the catalogue."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz.targets.smtp_server import read_replies
from trio_fcgimail.smtp import EnhancedCode, LocalProtocolError, Outcome, Reply, catalogue

CATALOGUE = {name: reply for name, reply in vars(catalogue).items() if isinstance(reply, Reply)}
E211 = EnhancedCode(2, 1, 1)


@pytest.mark.parametrize(
    ("code", "enhanced", "lines"),
    [
        pytest.param(199, None, ("x",), id="1xx"),
        pytest.param(600, None, ("x",), id="6xx"),
        pytest.param(550, E211, ("x",), id="class-2-with-550"),
        pytest.param(354, E211, ("x",), id="class-2-with-354"),
        pytest.param(250, None, (), id="no-line"),
        pytest.param(250, None, ("x",) * 65, id="65-lines"),
        pytest.param(250, None, ("a\r\n550 b",), id="crlf"),
        pytest.param(250, None, ("a\nb",), id="lf"),
        pytest.param(250, None, ("a\0",), id="nul"),
        pytest.param(250, None, ("a\x1b[1m",), id="escape"),
        pytest.param(250, None, ("a\u0085b",), id="nel"),
        pytest.param(250, None, ("a\u2028b",), id="line-separator"),
        pytest.param(250, None, ("a\ud800b",), id="surrogate"),
        pytest.param(250, None, ("x" * 495,), id="line-of-495"),
        pytest.param(250, None, ("\u00fc" * 248,), id="line-of-496-octets"),
    ],
)
def test_reply_that_no_client_could_read(code: int, enhanced: EnhancedCode | None, lines: tuple[str, ...]) -> None:
    with pytest.raises(LocalProtocolError):
        Reply(code, enhanced, lines)


@pytest.mark.parametrize("parts", [(3, 0, 0), (1, 0, 0), (5, 1000, 0), (5, 0, 1000), (5, -1, 0), (5, 0, -1)], ids=str)
def test_enhanced_code_out_of_range(parts: tuple[int, int, int]) -> None:
    with pytest.raises(LocalProtocolError):
        EnhancedCode(*parts)


@pytest.mark.parametrize(
    ("reply", "written"),
    [
        pytest.param(Reply(250, E211, ("a",)), b"250 2.1.1 a\r\n", id="one-line"),
        pytest.param(Reply(250, E211, ("a", "b")), b"250-2.1.1 a\r\n250 2.1.1 b\r\n", id="two-lines"),
        pytest.param(Reply(250, None, ("a", "b")), b"250-a\r\n250 b\r\n", id="without-enhanced"),
        pytest.param(Reply(250, E211, ("",)), b"250 2.1.1\r\n", id="no-text"),
        pytest.param(Reply(250, None, ("", "")), b"250-\r\n250\r\n", id="nothing-at-all"),
        pytest.param(Reply(250, None, ("\u00fc",)), b"250 ?\r\n", id="not-ascii"),
    ],
)
def test_render(reply: Reply, written: bytes) -> None:
    assert reply.render() == written


def test_render_options() -> None:
    reply = Reply(550, EnhancedCode(5, 1, 1), ("\u00fc",))
    assert reply.render(utf8=True) == "550 5.1.1 \u00fc\r\n".encode()
    assert reply.render(enhanced=False) == b"550 ?\r\n"


@settings(deadline=None)
@given(
    st.integers(200, 599),
    st.lists(st.text(st.characters(exclude_categories=["C", "Zl", "Zp"]), max_size=100), min_size=1, max_size=5),
    st.booleans(),
    st.booleans(),
)
def test_whatever_is_a_reply_is_read_as_that_reply(code: int, lines: list[str], enhanced: bool, utf8: bool) -> None:
    code_of_class = EnhancedCode(code // 100, 7, 999) if code // 100 != 3 else None
    reply = Reply(code, code_of_class, tuple("text " + line for line in lines))  # which is not read as a code itself
    (read,) = read_replies(reply.render(enhanced=enhanced, utf8=utf8))
    assert read.code == code
    if enhanced and code_of_class is not None:
        assert read.enhanced == str(code_of_class)
    assert len(read.lines) == len(lines)


@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        (220, Outcome.OK),
        (354, Outcome.GO),
        (421, Outcome.CLOSE),
        (450, Outcome.NO),
        (521, Outcome.CLOSE),
        (554, Outcome.NO),
    ],
)
def test_outcome(code: int, outcome: Outcome) -> None:
    assert Reply(code, None, ("x",)).outcome is outcome


def test_text_for_logs() -> None:
    assert Reply(250, E211, ("a", "", "b")).text == "250 2.1.1 a b"
    assert Reply(354, None, ("go",)).text == "354 go"


def test_with_lines_keeps_the_codes() -> None:
    assert catalogue.OK.with_lines("a", "b") == Reply(250, EnhancedCode(2, 0, 0), ("a", "b"))


@pytest.mark.parametrize("name", CATALOGUE)
def test_catalogue_carries_enhanced_codes_but_for_3xx(name: str) -> None:
    """Row 109, RFC 2034 4."""
    reply = CATALOGUE[name]
    assert (reply.enhanced is None) == (reply.code // 100 == 3)
    assert reply.render().isascii()
    assert len(read_replies(reply.render())) == 1
