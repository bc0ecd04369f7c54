"""A password never stands in what is logged, whatever the script that knows it prints."""

from __future__ import annotations

import base64
import html
import json
from typing import Final
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from trio_fcgimail.mail import (
    MAX_STDERR_OCTETS,
    Answer,
    Meaning,
    Stage,
    Unexpected,
    Verdict,
    hide_in_stderr,
    hide_password,
    judge,
    judge_login,
)
from trio_fcgimail.smtp import Secret

PASSWORD: Final = "s3cr\u00e9t/ 'w\"o\\rd' <&+=>"
OCTETS: Final = PASSWORD.encode()


def log_in(output: bytes, *, stderr: bytes = b"", status: int = 200, password: str = PASSWORD) -> Verdict:
    return judge_login(Answer(status, output, stderr), Secret(password))


FORMS: Final = [
    pytest.param(OCTETS, id="as-it-is"),
    pytest.param(base64.b64encode(OCTETS), id="base64"),
    pytest.param(base64.b64encode(b"bob:" + OCTETS), id="basic"),
    pytest.param(base64.b64encode(b"\0bob@example.com\0" + OCTETS), id="plain"),
    pytest.param(base64.b64encode(b"a" + OCTETS + b"more"), id="base64-of-more"),
    pytest.param(base64.urlsafe_b64encode(b"ab" + OCTETS), id="base64-of-urls"),
    pytest.param(quote(PASSWORD, safe="").encode(), id="rawurlencode"),
    pytest.param(quote_plus(PASSWORD).encode(), id="urlencode"),
    pytest.param(json.dumps(PASSWORD).encode(), id="json"),
    pytest.param(json.dumps(PASSWORD).replace("/", "\\/").encode(), id="json-encode"),
    pytest.param(json.dumps(PASSWORD, ensure_ascii=False).encode(), id="json-utf-8"),
    pytest.param(html.escape(PASSWORD).replace("&#x27;", "&#039;").encode(), id="htmlspecialchars"),
    pytest.param(PASSWORD.replace("\\", "\\\\").replace("'", "\\'").encode(), id="var-export"),
    pytest.param(
        PASSWORD.replace("\\", "\\\\").replace("'", "\\'").replace('"', '\\"').encode(),
        id="addslashes",
    ),
    pytest.param(b"#0 /s.php(3): check('bob', '" + OCTETS[:15] + b"...')", id="trace"),
]


@pytest.mark.parametrize("form", FORMS)
def test_each_form_is_found(form: bytes) -> None:
    text = hide_password(b"well, " + form + b" it is", Secret(PASSWORD)).decode()
    assert text.startswith("well, ")
    assert text.endswith(" it is")
    assert "[password]" in text
    assert not any(piece in text for piece in ("s3cr", "czNjc", "\u00e9t", 'w"o', "o\\rd"))


@pytest.mark.parametrize("kept", [1, 5, 20])
def test_a_trace_that_cuts_elsewhere_is_found(kept: int) -> None:
    plain = "correct horse battery staple"
    trace = b"#0 /s.php(3): check('bob', '" + plain[:kept].encode() + b"...')"
    assert hide_password(trace, Secret(plain)) == b"#0 /s.php(3): check('bob', '[password]')"
    assert hide_password(b"check('bo...')", Secret(plain)) == b"check('bo...')"


@given(st.text(min_size=1, max_size=30), st.binary(max_size=30), st.binary(max_size=30))
def test_no_password_is_left_standing_in_any_text(password: str, before: bytes, behind: bytes) -> None:
    assume(password.encode("utf-8", "replace").decode() == password)
    plain = password.encode()
    assume(plain not in b"[password]" and len(plain) > 3)
    for form in (plain, base64.b64encode(plain)):
        assert form not in hide_password(before + form + behind, Secret(password)).replace(b"[password]", b"\xff")


def test_words_without_it_are_left_alone() -> None:
    text = b"wrong password for bob, s3cr"
    assert hide_password(text, Secret(PASSWORD)) == text


def test_stderr_that_was_cut_is_not_shown() -> None:
    whole = b"x" * (MAX_STDERR_OCTETS - 1)
    assert hide_in_stderr(whole, Secret(PASSWORD)) == whole
    assert (
        hide_in_stderr(whole + b"x", Secret(PASSWORD)) == b"16384 octets or more, which are not shown beside a password"
    )


@pytest.mark.parametrize(
    ("output", "reply", "reason"),
    [
        pytest.param("PASSED", "235 2.7.0 Authentication succeeded", "PASSED", id="passes"),
        pytest.param(
            f"PASSED {PASSWORD}", "235 2.7.0 Authentication succeeded", "PASSED [password]", id="passes-and-shows"
        ),
        pytest.param(
            f"no such {PASSWORD}",
            "535 5.7.8 Authentication credentials invalid",
            "no such [password]",
            id="other-words",
        ),
        pytest.param(
            f"535 5.7.8 {PASSWORD} is wrong",
            "535 5.7.8 [password] is wrong",
            "535 5.7.8 [password] is wrong",
            id="reply",
        ),
        pytest.param(
            "454 " + "x" * 395 + PASSWORD,
            "454 4.7.0 " + "x" * 395 + "[p...",
            "454 " + "x" * 395 + "[password]",
            id="cut",
        ),
    ],
)
def test_what_is_told_and_logged(output: str, reply: str, reason: str) -> None:
    verdict = log_in(output.encode())
    assert (verdict.reply.text, verdict.reason) == (reply, reason)


@pytest.mark.parametrize(
    ("password", "output", "meaning", "reply"),
    [
        pytest.param("PASSED", b"PASSED", Meaning.ACCEPTED, "235 2.7.0 Authentication succeeded", id="word"),
        pytest.param("P", b"PASSED", Meaning.ACCEPTED, "235 2.7.0 Authentication succeeded", id="letter"),
        pytest.param("454", b"454 later", Meaning.REFUSED, "454 4.7.0 Temporary authentication failure", id="code"),
        pytest.param("421", b"421 gone", Meaning.REFUSED, "421 4.3.0 Local error; closing", id="code-that-closes"),
        pytest.param(
            "x", b"535 5.7.8 " + b"x" * 400, Meaning.REFUSED, "535 5.7.8 " + "[password]" * 39 + "[passwo...", id="long"
        ),
        pytest.param(
            "nobody", b"PASSED\nnobody", Meaning.FAILED, "454 4.7.0 Temporary authentication failure", id="two"
        ),
    ],
)
def test_a_password_does_not_change_what_the_answer_means(
    password: str, output: bytes, meaning: Meaning, reply: str
) -> None:
    verdict = log_in(output, password=password)
    assert (verdict.meaning, verdict.reply.text) == (meaning, reply)


def test_what_php_says_of_a_fault_is_shown_without_it() -> None:
    line = b"PHP message: PHP Fatal error:  Uncaught E: " + OCTETS + b" in /s.php:3"
    verdict = log_in(b"PASSED", stderr=line)
    assert verdict.meaning is Meaning.FAILED
    assert verdict.reason == "PHP says on STDERR: PHP Fatal error:  Uncaught E: [password] in /s.php:3"
    verdict = log_in(b"PASSED", stderr=line + b"x" * MAX_STDERR_OCTETS)
    assert verdict.meaning is Meaning.FAILED
    assert verdict.reason == "PHP says on STDERR that it died, or that it dropped input"


@settings(deadline=None)  # a busy machine is no fault
@given(st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=8), st.binary(max_size=40))
def test_any_answer_to_any_password_has_its_verdict(password: str, rest: bytes) -> None:
    for output in (b"PASSED", rest, b"535 " + rest, b"PASSED " + password.encode(), password.encode() * 60):
        bare = judge(Stage.AUTH, Answer(200, output, b""), unexpected=Unexpected.TEMPFAIL, queue_id="")
        verdict = log_in(output, password=password)
        assert (verdict.meaning, verdict.reply.code) == (bare.meaning, bare.reply.code)
