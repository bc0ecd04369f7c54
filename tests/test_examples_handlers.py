"""The examples in Perl, Python and C, each run as docs/scripts.md says, from the file that it shows."""

import re
import smtplib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlencode

import pytest

from tests.application_servers import (
    EXAMPLES,
    ROOT,
    Place,
    Running,
    compiled,
    configuration,
    perl,
    python_with,
    spawn_fcgi,
)
from tests.clients import HELO, SECONDS
from tests.phpfpm import Answer, call_script, open_folder
from tests.server_process import ServerProcess
from tests.test_examples_php import BODY, DIGEST, OTHER, REFUSED, Refused

FAILED: Final = "451 4.3.0 could not do it now, try again later"
KNOWN: Final = "info@example.com  Second@Example.com"
PAGE: Final = (ROOT / "docs" / "scripts.md").read_text()


@dataclass(frozen=True, slots=True)
class Example:
    """One of them.

    Attributes:
        file: Within examples/.
        program: The command that runs it.
        workers: How many processes of it; threads need one.
    """

    id: str
    file: str
    program: Callable[[Place, str], tuple[str, ...]]
    workers: int


HANDLERS: Final = (
    Example("perl", "perl/handler.pl", lambda place, path: (perl(), path), 2),
    Example("python", "python/handler.py", lambda place, path: (python_with("fcgisgi"), path), 1),
    Example("c", "c/handler.c", lambda place, path: (compiled(place, path),), 2),
)


@dataclass(frozen=True, slots=True)
class Handler:
    """A running one."""

    app: Running
    place: Place

    def ask(
        self, stage: str, fields: dict[str, str | bytes] | bytes, *, post: bool = False, keep: int | None = None
    ) -> Answer:
        """One request, by a client that owes nothing to the code under test."""
        form = fields if isinstance(fields, bytes) else urlencode(fields).encode()
        form = f"stage={stage}&".encode() + form
        path = Path(self.app.address.removeprefix("unix:"))
        return call_script(path, "/x", get="" if post else form.decode(), post=form if post else None, keep=keep)

    def save(self, fields: dict[str, str | bytes] | bytes, keep: int | None = None) -> Answer:
        """Hand over a mail."""
        return self.ask("save", fields, post=True, keep=keep)

    def files(self) -> dict[str, bytes]:
        """What lies in the folder."""
        return {path.name: path.read_bytes() for path in self.place.mails.iterdir() if path.is_file()}


def handler_of(example: Example, rcpts: str) -> Iterator[Handler]:
    with open_folder() as folder:
        mails = folder / "mails"
        mails.mkdir()
        place = Place(folder, mails, {"FCGIMAIL_DIR": str(mails), "FCGIMAIL_RCPTS": rcpts})
        program = example.program(place, str(EXAMPLES / example.file))
        with spawn_fcgi(place, *program, workers=example.workers) as app:
            yield Handler(app, place)


@pytest.fixture(scope="module", params=[pytest.param(one, id=one.id) for one in HANDLERS])
def handler(request: pytest.FixtureRequest) -> Iterator[Handler]:
    example = request.param
    assert isinstance(example, Example)
    yield from handler_of(example, KNOWN)


def fields_of(body: bytes = BODY, digest: str = DIGEST) -> dict[str, str | bytes]:
    return {"body": body, "mail_digest": digest, "mail_from": "a@example.com", "size": str(len(body))}


def test_a_mail_is_stored_byte_for_byte(handler: Handler) -> None:
    answer = handler.save(fields_of())
    assert (answer.text, answer.stderr, answer.end) == (f"SAVED id={DIGEST[:16]}", "", (0, 0))
    assert handler.files() == {f"{DIGEST}.eml": BODY}
    assert (handler.place.mails / f"{DIGEST}.eml").stat().st_mode & 0o777 == 0o600


def test_a_retried_mail_is_one_file(handler: Handler) -> None:
    for digest in (DIGEST, OTHER, DIGEST):
        assert handler.save(fields_of(digest=digest)).text.startswith("SAVED")
    assert handler.files().keys() == {f"{DIGEST}.eml", f"{OTHER}.eml"}


def test_an_empty_mail_is_a_mail(handler: Handler) -> None:
    assert handler.save(fields_of(b"")).text.startswith("SAVED")
    assert handler.files()[f"{DIGEST}.eml"] == b""


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.id)
def test_what_is_not_a_whole_mail_is_not_saved(handler: Handler, case: Refused) -> None:
    before = handler.files()
    answer = handler.save(case.post, case.keep)
    # Of a connection that was cut some adapters tell nobody anything.
    assert answer.text == FAILED or (case.keep is not None and answer.end is None and not answer.text)
    assert answer.stderr.startswith("handler") or case.keep is not None
    assert handler.files() == before


def test_a_rename_that_fails_leaves_no_draft(handler: Handler) -> None:
    name = f"{'0' * 64}.eml"
    (handler.place.mails / name / "in the way").mkdir(parents=True)
    before = handler.files()
    answer = handler.save(fields_of(digest="0" * 64))
    assert (answer.text, answer.end) == (FAILED, (0, 0))
    assert answer.stderr.startswith("handler")
    assert handler.files() == before


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        pytest.param(b"rcpt_to=info%40example.com", "PASSED", id="known"),
        pytest.param(b"rcpt_to=INFO@example.com", "PASSED", id="any-case"),
        pytest.param(b"rcpt_to=second%40example.com", "PASSED", id="second"),
        pytest.param(b"rcpt_to=Postmaster%40example.com", "PASSED", id="postmaster"),
        pytest.param(b"rcpt_to=nobody%40example.com", "550 5.1.1 no such user", id="unknown"),
        pytest.param(b"rcpt_to=info", "550 5.1.1 no such user", id="part-of-a-name"),
        pytest.param(b"rcpt_to=info%40example.com%20second%40example.com", "550 5.1.1 no such user", id="both"),
        pytest.param(b"rcpt_to=info%40example.com%0A", "550 5.1.1 no such user", id="with-line-end"),
    ],
)
def test_validate(handler: Handler, query: bytes, expected: str) -> None:
    answer = handler.ask("validate", query)
    assert (answer.text, answer.stderr, answer.end) == (expected, "", (0, 0))


@pytest.mark.parametrize(
    ("stage", "query"),
    [
        pytest.param("validate", b"", id="no-recipient"),
        pytest.param("connect", b"rcpt_to=info%40example.com", id="another-stage"),
    ],
)
def test_what_it_does_not_know_is_451(handler: Handler, stage: str, query: bytes) -> None:
    assert handler.ask(stage, query).text.startswith("451 4.3.0 ")


@pytest.mark.parametrize("example", [pytest.param(one, id=one.id) for one in HANDLERS])
def test_while_nobody_is_named_everybody_passes(example: Example) -> None:
    for handler in handler_of(example, ""):
        assert handler.ask("validate", b"rcpt_to=any%40example.com").text == "PASSED"


def test_by_the_mail_server(handler: Handler) -> None:
    content = b"Subject: hello\r\n\r\n.\r\n8-bit: \xff\xfe, marks: %41+&;=\r\n"
    folder = handler.place.folder
    (folder / "fcgimail.toml").write_text(configuration(handler.app, line_ends="lf"))
    before = handler.files().keys()
    with ServerProcess("serve", "-c", "fcgimail.toml", folder=folder) as server:
        with smtplib.SMTP("127.0.0.1", server.port, local_hostname=HELO, timeout=SECONDS) as client:
            refused = client.sendmail("a@example.net", ["info@example.com", "nobody@example.com"], content)
        assert refused == {"nobody@example.com": (550, b"5.1.1 no such user")}
        assert server.stop() == 0
    files = handler.files()
    (name,) = files.keys() - before
    assert files[name].startswith(b"Received: from ")
    assert files[name].endswith(b"\n" + content.replace(b"\r\n", b"\n"))
    assert b"\r" not in files[name]


@pytest.mark.parametrize("example", [pytest.param(one, id=one.id) for one in HANDLERS])
def test_the_page_names_it_and_how_to_run_it(example: Example) -> None:
    assert f"](../examples/{example.file})" in PAGE
    source = (EXAMPLES / example.file).read_text()
    (command,) = re.findall(r"^\W*(FCGIMAIL_DIR=\S+ spawn-fcgi .*)$", source, re.MULTILINE)
    assert command in PAGE
