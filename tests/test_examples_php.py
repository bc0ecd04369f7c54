"""The example scripts and the sample pool, through a real php-fpm."""

import hashlib
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

from tests.phpfpm import PhpFpm, call_script, open_folder, php_fpm, require_php
from tests.test_bodies_php import save as send
from trio_fcgimail.mail import BodyKind

EXAMPLES: Final = Path(__file__).parents[1] / "examples" / "php"
BODY: Final = b"Subject: hi\n\nall octets: " + bytes(range(256)) + b"\r\n.\n" + b"x" * 100_000
DIGEST: Final = hashlib.sha256(b"one").hexdigest()
OTHER: Final = hashlib.sha256(b"two").hexdigest()
FAILED: Final = "451 4.3.0 could not store the mail, try again later"


@pytest.fixture(scope="module")
def server() -> Iterator[PhpFpm]:
    yield from php_fpm()


@pytest.fixture
def mails(server: PhpFpm, request: pytest.FixtureRequest) -> Path:
    """A folder for the mails of one test; it does not exist yet."""
    name = str(request.node.name)
    return server.data / name.replace("[", "-").strip("]")


@pytest.fixture
def save(server: PhpFpm, mails: Path) -> str:
    """save.php, with FCGIMAIL_DIR set for this test alone."""
    example = server.script("save.php", (EXAMPLES / "save.php").read_text())
    return server.script(f"{mails.name}.php", f"<?php putenv('FCGIMAIL_DIR={mails}'); require '{example}';")


def _fields(body: bytes = BODY, digest: str = DIGEST) -> dict[str, str | bytes]:
    return {"body": body, "mail_digest": digest, "mail_from": "a@example.com", "size": str(len(body))}


def test_a_mail_is_stored_byte_for_byte(server: PhpFpm, save: str, mails: Path) -> None:
    answer = call_script(server.socket_path, save, post=_fields())
    assert (answer.text, answer.stderr, answer.end) == (f"SAVED id={DIGEST[:16]}", "", (0, 0))
    (stored,) = mails.iterdir()
    assert stored.name == f"{DIGEST}.eml"
    assert stored.read_bytes() == BODY
    assert stored.stat().st_mode & 0o077 == 0


def test_a_retried_mail_is_one_file(server: PhpFpm, save: str, mails: Path) -> None:
    for digest in (DIGEST, OTHER, DIGEST):
        assert call_script(server.socket_path, save, post=_fields(digest=digest)).text.startswith("SAVED")
    assert {path.name for path in mails.iterdir()} == {f"{DIGEST}.eml", f"{OTHER}.eml"}


def test_an_empty_mail_is_a_mail(server: PhpFpm, save: str, mails: Path) -> None:
    assert call_script(server.socket_path, save, post=_fields(b"")).text.startswith("SAVED")
    assert (mails / f"{DIGEST}.eml").read_bytes() == b""


@dataclass(frozen=True, slots=True)
class Refused:
    """A request that must not be SAVED."""

    id: str
    post: dict[str, str | bytes] | bytes
    keep: int | None = field(default=None)


_WITHOUT_BODY: Final = {name: value for name, value in _fields().items() if name != "body"}
_WITHOUT_DIGEST: Final = {name: value for name, value in _fields().items() if name != "mail_digest"}
REFUSED: Final = [
    Refused("cut-on-the-wire", b"mail_digest=" + DIGEST.encode() + b"&size=10&body=0123456789", keep=-5),
    Refused("size-says-more", _fields() | {"size": str(len(BODY) + 1)}),
    Refused("size-says-less", _fields() | {"size": str(len(BODY) - 1)}),
    Refused("size-is-no-number", _fields() | {"size": "all of it"}),
    Refused("no-body", _WITHOUT_BODY),
    Refused("no-body-and-size-zero", _WITHOUT_BODY | {"size": "0"}),
    Refused("no-fields", b""),
    Refused("no-digest", _WITHOUT_DIGEST),
    Refused("digest-leaves-the-folder", _fields() | {"mail_digest": "../" * 3 + "x" * 55}),
    Refused("digest-with-line-end", _fields() | {"mail_digest": DIGEST + "\n"}),
    Refused("body-is-an-array", b"body[]=x&size=1&mail_digest=" + DIGEST.encode()),
    Refused("size-is-an-array", b"body=x&size[]=1&mail_digest=" + DIGEST.encode()),
    Refused("digest-is-an-array", b"body=x&size=1&mail_digest[]=" + DIGEST.encode()),
]


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.id)
def test_what_is_not_a_whole_mail_is_not_saved(server: PhpFpm, save: str, mails: Path, case: Refused) -> None:
    answer = call_script(server.socket_path, save, post=case.post, keep=case.keep)
    assert answer.text == FAILED
    assert "save.php:" in answer.stderr
    assert not mails.exists()


def test_a_mail_that_php_dropped_is_not_saved() -> None:
    with PhpFpm(children=1, ini={"post_max_size": "1000"}, env={"FCGIMAIL_DIR": "/nonexistent"}) as php:
        script = php.script("save.php", (EXAMPLES / "save.php").read_text())
        answer = call_script(php.socket_path, script, post=_fields())
        assert answer.text == FAILED
        assert "exceeds the limit" in answer.stderr
        assert "the mail is not complete" in answer.stderr


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


KINDS: Final = pytest.mark.parametrize("kind", [pytest.param(kind, id=kind.value) for kind in BodyKind])


@KINDS
@pytest.mark.trio
async def test_a_mail_is_stored_however_it_is_sent(server: PhpFpm, save: str, mails: Path, kind: BodyKind) -> None:
    answer = await send(server, save, BODY, kind)
    name = answer.output.decode().removeprefix("SAVED id=")
    ((stored, content),) = files(mails).items()
    assert (stored[:16], answer.stderr) == (name, b"")
    assert content == (BODY.replace(b"\r\n", b"\n") if kind is BodyKind.FORM else BODY)


@pytest.mark.parametrize(
    ("kind", "ini", "told"),
    [
        pytest.param(BodyKind.MULTIPART, {"upload_max_filesize": "1000"}, "no upload: error 1", id="too-large"),
        pytest.param(BodyKind.MULTIPART, {"file_uploads": "0"}, 'no upload: error "missing"', id="no-uploads"),
        pytest.param(BodyKind.MULTIPART, {"enable_post_data_reading": "0"}, 'error "missing"', id="no-reading"),
        pytest.param(BodyKind.MULTIPART, {"post_max_size": "1000"}, 'no upload: error "missing"', id="multipart"),
        pytest.param(BodyKind.FORM, {"enable_post_data_reading": "0"}, "not complete: no body", id="form-no-reading"),
    ],
)
@pytest.mark.trio
async def test_a_mail_that_php_dropped_is_not_saved_however_it_is_sent(
    kind: BodyKind, ini: dict[str, str], told: str
) -> None:
    with PhpFpm(children=1, ini=ini, env={"FCGIMAIL_DIR": "/nonexistent"}) as php:
        script = php.script("save.php", (EXAMPLES / "save.php").read_text())
        answer = await send(php, script, BODY, kind)
    assert answer.output.decode() == FAILED
    assert told in answer.stderr.decode()


_PART: Final = b'--B\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n%s\r\n'
_UPLOAD: Final = b"".join(
    [
        _PART % (b"size", b"", b"10"),
        _PART % (b"mail_digest", b"", DIGEST.encode()),
        _PART % (b"body", b'; filename="a"', b"0123456789"),
    ]
)


@pytest.mark.parametrize(
    ("content_type", "post", "keep"),
    [
        pytest.param("message/rfc822", b"0123456789", 5, id="raw-cut"),
        pytest.param("message/rfc822", b"01234", None, id="raw-short"),
        pytest.param("message/rfc822", b"", None, id="raw-empty"),
        pytest.param("multipart/form-data; boundary=B", _UPLOAD, None, id="multipart-without-an-end"),
        pytest.param("multipart/form-data; boundary=B", _UPLOAD.replace(b"9", b"") + b"--B--\r\n", None, id="short"),
        pytest.param("multipart/form-data; boundary=C", _UPLOAD + b"--B--\r\n", None, id="another-boundary"),
        pytest.param("multipart/form-data; boundary=B", _UPLOAD.replace(b'"body"', b'"body[]"') + b"--B--\r\n", None,
                     id="many-files"),
    ],
)  # fmt: skip
def test_what_is_cut_is_not_saved(
    server: PhpFpm, save: str, mails: Path, content_type: str, post: bytes, keep: int | None
) -> None:
    query = {"size": "10", "mail_digest": DIGEST}
    answer = call_script(server.socket_path, save, get=query, post=post, content_type=content_type, keep=keep)
    assert answer.text == FAILED
    assert "save.php:" in answer.stderr
    assert not mails.exists() or not any(mails.iterdir())


def test_a_folder_that_cannot_be_written(server: PhpFpm, save: str, mails: Path) -> None:
    mails.write_text("a file where the folder should be")
    answer = call_script(server.socket_path, save, post=_fields())
    assert answer.text == FAILED
    assert "cannot make the folder" in answer.stderr


def test_a_rename_that_fails_leaves_no_draft(server: PhpFpm, save: str, mails: Path) -> None:
    (mails / f"{DIGEST}.eml" / "in the way").mkdir(parents=True)
    mails.chmod(0o777)
    assert call_script(server.socket_path, save, post=_fields()).text == FAILED
    assert [path.name for path in mails.iterdir()] == [f"{DIGEST}.eml"]


def test_without_a_configured_folder_a_private_one_is_made() -> None:
    with open_folder() as temporary, PhpFpm(env={"TMPDIR": str(temporary), "FCGIMAIL_DIR": ""}) as php:
        save = php.script("save.php", (EXAMPLES / "save.php").read_text())
        assert call_script(php.socket_path, save, post=_fields()).text == f"SAVED id={DIGEST[:16]}"
        (folder,) = temporary.glob("fcgimail-*")
        assert (folder / f"{DIGEST}.eml").read_bytes() == BODY
        assert folder.stat().st_mode & 0o777 == 0o700

        folder.chmod(0o777)
        answer = call_script(php.socket_path, save, post=_fields(digest=OTHER))
        assert answer.text == FAILED
        assert "is open to others" in answer.stderr


@pytest.mark.parametrize(
    ("names", "query", "expected"),
    [
        pytest.param("", "rcpt_to=any%40example.com", "PASSED", id="nobody-named"),
        pytest.param("a@x.test b@x.test", "rcpt_to=b%40x.test", "PASSED", id="named"),
        pytest.param("A@x.test", "rcpt_to=a%40X.TEST", "PASSED", id="any-case"),
        pytest.param("a@x.test", "rcpt_to=postmaster%40x.test", "PASSED", id="postmaster"),
        pytest.param("a@x.test", "rcpt_to=c%40x.test", "550 5.1.1 no such user", id="unknown"),
        pytest.param("a@x.test", "rcpt_to=a%40x.test%0A", "550 5.1.1 no such user", id="with-line-end"),
        pytest.param("0", "rcpt_to=c%40x.test", "PASSED", id="zero-names-nobody"),
        pytest.param("", "", "451 4.3.0 no recipient was given", id="missing"),
        pytest.param("", "rcpt_to=", "451 4.3.0 no recipient was given", id="empty"),
        pytest.param("", "rcpt_to[]=a%40x.test", "451 4.3.0 no recipient was given", id="array"),
    ],
)
def test_validate(server: PhpFpm, names: str, query: str, expected: str) -> None:
    example = server.script("validate.php", (EXAMPLES / "validate.php").read_text())
    script = server.script("names.php", f"<?php putenv('FCGIMAIL_RCPTS={names}'); require '{example}';")
    answer = call_script(server.socket_path, script, get=query)
    assert (answer.text, answer.stderr, answer.end) == (expected, "", (0, 0))


def test_the_sample_pool_is_valid(tmp_path: Path) -> None:
    """With the account of these tests in place of www-data, which not every system has."""
    sample = (EXAMPLES / "php-fpm-pool.conf").read_text()
    pool = tmp_path / "pool.conf"
    pool.write_text(sample.replace("www-data", "daemon"))
    conf = tmp_path / "php-fpm.conf"
    conf.write_text(f"[global]\nerror_log = {tmp_path}/log\ninclude = {pool}\n")
    done = subprocess.run(
        [require_php().path, "-tt", "--fpm-config", conf], capture_output=True, text=True, check=False
    )
    log = (tmp_path / "log").read_text() + done.stderr
    assert done.returncode == 0, log
    assert "test is successful" in log
    assert "WARNING" not in log
    for setting in ("pm = static", "request_terminate_timeout = 30s", "php_admin_value[output_buffering] = 65536"):
        assert setting in log
